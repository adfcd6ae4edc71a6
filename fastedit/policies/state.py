"""The state of blocks that are being decoded: their ids, and what the rule needs and keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Buffer, Policy
from fastedit.policies.declared import bound_of, check_declared
from fastedit.policies.planes import Planes
from fastedit.transfers import put

FLAGS = ("done", "dirty", "bad", "capped", "reopened")
COUNTS = ("forwards", "m2t_commits", "t2t_edits", "remasks", "inserts", "deletes")


class State:
    """N blocks of L positions under one policy; every tensor is changed in place.

    ids         [N, L] int64   a position that holds the mask token is undecided
    editable    [N, L] bool    False marks prompt and padding, which never change
    opened      [N, L] bool    positions up to the end of the active block; None unless the policy
                               is wide
    flags       [5, N] bool    `done`: the block is finished; `dirty`: the last step changed ids,
                               so keys and values of its forward are stale; `bad`: a row that was
                               looked at had bad logits; `capped`: the bound filled the last masks;
                               `reopened`: what stands before the block may change with it
    counts      [6, N] int32   forwards, m2t_commits, t2t_edits, remasks, inserts, deletes
    parameters  [N] each       of the policy, one value per block
    moves       [3, N, L] int64  of the last decision, where the policy inserts and deletes, else
                               None: where each token stood before it, -1 for a mask that was not
                               there; which of the positions before it have a mask put before
                               them; and which were taken out
    buffers     [N], [N, L] or [N, forwards, L]  what the policy keeps
    limit       [N] int32      forwards that a block may take
    lengths     [N] int64      positions that there are of the L, which shrink and grow; None unless
                               the policy has variable lengths
    limits      [N] int64      and how many there may be
    sampling                   how blocks with a temperature draw
    earlier     int            of the L positions, those that stand before the block

    `state[a:b]` is a view of some blocks: steps on it show in the whole. So do steps on `block`,
    which leaves out what stands before, and is for steps in which no block is reopened: it is
    `alone`.
    """

    def __init__(
        self,
        policy: Policy,
        mask_token_id: int,
        strict: bool,
        ids: Tensor,
        editable: Tensor,
        flags: Tensor,
        counts: Tensor,
        limit: Tensor,
        parameters: Planes,
        buffers: Planes,
        sampling: ops.Sampling,
        opened: Tensor | None,
        earlier: int = 0,
        moves: Tensor | None = None,
    ) -> None:
        self.policy, self.mask_token_id, self.strict = policy, mask_token_id, strict
        self.ids, self.editable, self.flags = ids, editable, flags
        self.count_rows, self.limit = counts, limit
        self.parameters, self.buffers, self.sampling = parameters, buffers, sampling
        self.opened, self.moves = opened, moves
        self.lengths: Tensor | None = None
        self.limits: Tensor | None = None
        self.whole: State | None = None  # whose first positions these are, where lengths vary
        self.done, self.dirty, self.bad, self.capped, self.reopened = flags
        self.counts = Planes(zip(COUNTS, counts, strict=True))
        self.draws = False  # whether a block of these has a temperature
        self.wants_next = True  # whether one may need statistics of the next token
        self.vocab: int | None = None  # how many ids there are, where it is known before a forward
        self.alone = False
        self._views: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None
        self.may: Tensor | None = None  # as is the next, while a decision is taken
        self.now: ops.Contents | None = None
        self.earlier, self.block = earlier, self
        if earlier:
            self.block = self._columns(slice(earlier, None))
            self.block.alone = True
            self.own = self.places >= 0

    @classmethod
    def new(
        cls,
        policy: Policy,
        ids: Tensor,
        mask_token_id: int,
        *,
        strict: bool = False,
        start: Tensor | None = None,
        earlier: int = 0,
    ) -> State:
        """Fresh blocks that hold `ids` [N, L], all of it editable, greedy, under `policy`."""
        check_declared(policy)
        blocks, length = ids.shape
        device = ids.device

        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        def shape(buffer: Buffer) -> list[int]:
            if buffer.history:
                return [blocks, policy.most_forwards(length), length]
            return [blocks, length] if buffer.per_position else [blocks]

        buffers = {
            name: full(buffer.initial, buffer.dtype, *shape(buffer))
            for name, buffer in policy.buffers.items()
        }
        parameters = {
            name: full(0, parameter.dtype, blocks)  # type: ignore[arg-type]
            for name, (parameter, _) in policy.on_device().items()
        }
        state = cls(
            policy,
            mask_token_id,
            strict,
            ids,
            full(True, torch.bool, blocks, length),
            full(False, torch.bool, len(FLAGS), blocks),
            full(0, torch.int32, len(COUNTS), blocks),
            full(0, torch.int32, blocks),
            Planes(parameters),
            Planes(buffers),
            ops.Sampling(
                temperature=full(0, torch.float32, blocks),
                top_k=full(0, torch.int64, blocks),
                top_p=full(1, torch.float32, blocks),
                seed=full(0, torch.int64, blocks),
                start=full(0, torch.int64, blocks) if start is None else start,
            ),
            full(True, torch.bool, blocks, length) if policy.wide else None,
            earlier,
            full(0, torch.int64, 3, blocks, length) if policy.rewrites else None,
        )
        if policy.variable:
            state.lengths = full(length, torch.int64, blocks)
            state.limits = full(length, torch.int64, blocks)
        state.set_policies(slice(None), [policy], length)
        return state

    def set_policies(self, rows: slice, policies: Sequence[Policy], length: int) -> None:
        """Give these blocks the parameters of `policies`, one each, or the only one for all.

        length: how many of their positions are decided.
        """
        given = [policy.on_device() for policy in policies]
        bounds = [bound_of(policy, length) for policy in policies]
        for name, (parameter, _) in given[0].items():
            values = (parameters[name][1] for parameters in given)
            known = [parameter.absent if value is None else value for value in values]
            put(self.parameters[name], rows, known)
        put(self.limit, rows, bounds)

    @functools.cached_property
    def twin(self) -> Callable[[Tensor, bool], bool] | None:
        """The fused step of the policy on these blocks, if it has one."""
        return self.policy.twin(self)

    @property
    def length(self) -> int:
        """L, the positions of a block and of what stands before it."""
        return self.ids.shape[1]

    def positions(self) -> Tensor:
        """Of the request, int64 [N, L]: what draws are keyed by."""
        return self.sampling.start[:, None] + self.places

    @property
    def places(self) -> Tensor:
        """Of the positions, counted from the block's first one, int64 [L]."""
        return self._kept()[0]

    def draw_keys(self) -> tuple[Tensor, Tensor, Tensor]:
        """Seed, top-k and top-p of `sampling`, as views [N, L]."""
        return self._kept()[1]

    def _kept(self) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """What is made once for all steps, until L changes, where lengths vary."""
        if self._views is None or len(self._views[0]) != self.length:
            place = torch.arange(-self.earlier, self.length - self.earlier, device=self.ids.device)
            draws = self.sampling.seed, self.sampling.top_k, self.sampling.top_p
            seed, top_k, top_p = (field[:, None].expand(self.ids.shape) for field in draws)
            self._views = place, (seed, top_k, top_p)
        return self._views

    def first(self, length: int) -> State:
        """The first `length` positions of blocks with variable lengths; no block has more."""
        state = self._columns(slice(length))
        state.lengths, state.limits, state.whole = self.lengths, self.limits, self
        state.draws, state.wants_next, state.vocab = self.draws, self.wants_next, self.vocab
        return state

    def _columns(self, columns: slice) -> State:
        buffers = self.buffers.items()
        return State(
            self.policy,
            self.mask_token_id,
            self.strict,
            self.ids[:, columns],
            self.editable[:, columns],
            self.flags,
            self.count_rows,
            self.limit,
            self.parameters,
            Planes((name, b if b.ndim == 1 else b[..., columns]) for name, b in buffers),
            self.sampling,
            None,
        )

    def __getitem__(self, rows: slice) -> State:
        state = State(
            self.policy,
            self.mask_token_id,
            self.strict,
            self.ids[rows],
            self.editable[rows],
            self.flags[:, rows],
            self.count_rows[:, rows],
            self.limit[rows],
            self.parameters.rows(rows),
            self.buffers.rows(rows),
            ops.Sampling(*(field[rows] for field in self.sampling.fields())),
            None if self.opened is None else self.opened[rows],
            self.earlier,
            None if self.moves is None else self.moves[:, rows],
        )
        if self.lengths is not None and self.limits is not None:
            state.lengths, state.limits = self.lengths[rows], self.limits[rows]
        return state

    def fields(self) -> tuple[Tensor, ...]:
        """Every tensor whose first dimension is the block."""
        return (
            self.ids,
            self.editable,
            *(each for each in (self.opened, self.lengths, self.limits) if each is not None),
            *self.flags,
            *self.count_rows,
            self.limit,
            *self.parameters.values(),
            *self.buffers.values(),
            *self.sampling.fields(),
        )

    def reset(self, rows: slice | Tensor) -> None:
        """Flags, counts and buffers as of fresh blocks: of blocks `rows`, or where `rows` [N] is.

        The latter, which goes on to the next block, leaves a wide policy what it has of positions.
        """
        for planes, value in ((self.flags, 0), (self.count_rows, 0)):
            if isinstance(rows, Tensor):
                planes.masked_fill_(rows, value)
            else:
                planes[:, rows] = value
        for name, buffer in self.policy.buffers.items():
            plane = self.buffers[name]
            if isinstance(rows, Tensor):
                if self.opened is not None and plane.ndim > 1:
                    continue
                where = rows.view(-1, *[1] * (plane.ndim - 1))
                plane.masked_fill_(where, buffer.initial)
            else:
                plane[rows] = buffer.initial

    def forbidden(self, vocab: int, following: bool = False) -> tuple[int, ...]:
        """Ids that are never chosen from `vocab` ones: the mask, unless the released rule may.

        following: what the head for the next token never chooses.
        """
        chosen = self.strict or self.policy.chooses_mask
        never = () if chosen else (self.mask_token_id,)
        if following:
            never = (*never, *self.policy.never_next)
        return tuple(i for i in never if 0 <= i < vocab)

    def no_text(self, vocab: int) -> tuple[int, ...]:
        """Ids, of `vocab` ones, without which there has to be one to choose."""
        if not self.policy.chooses_mask:
            return self.forbidden(vocab)
        ids = (self.mask_token_id, *self.policy.control_ids)
        return tuple(token for token in ids if 0 <= token < vocab)

    def may_change(self) -> Tensor:
        """Positions that a decision may write, bool [N, L].

        The released loop commits a literal mask of the prompt, and never edits it.
        """
        if self.may is not None:
            return self.may
        may = self.editable
        if self.earlier:
            may = may & (self.own | self.reopened[:, None])
        if self.strict and not self.policy.chooses_mask:
            masks = self.ids == self.mask_token_id
            may = may | (masks & self.own if self.earlier else masks)
        if self.opened is not None:
            may = may & self.opened
        if self.lengths is not None:
            may = may & self.exists()
        return may

    def exists(self) -> Tensor:
        """Where there is a position, bool [N, L], of blocks with variable lengths."""
        assert self.lengths is not None
        return self.places < self.lengths[:, None]

    def shown(self) -> Tensor:
        """What the next forward takes for `ids`, int64 [N, L]."""
        return self.policy.shown(self)

    def changing(self) -> ops.Blocks:
        """What a fused step changes, and what of it may."""
        may, counts = self.may_change(), self.count_rows
        return ops.Blocks(self.ids, may, self.flags, counts, self.mask_token_id)

    def contents(self) -> ops.Contents:
        """The masks and tokens among the positions that may change, and how many of each."""
        if self.now is not None:
            return self.now
        return ops.contents(self.ids, self.may_change(), mask_token_id=self.mask_token_id)

    def masked(self) -> Tensor:
        """Where a mask is still to be committed, bool [N, L]."""
        return self.contents().masked
