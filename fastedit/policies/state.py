"""The state of blocks that are being decoded: their ids, and what the rule needs and keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import NEEDS, PLANS, Policy
from fastedit.policies.planes import Planes

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
    buffers     [N] or [N, L]  what the policy keeps
    limit       [N] int32      forwards that a block may take
    sampling                   how blocks with a temperature draw
    earlier     int            of the L positions, those that stand before the block

    `state[a:b]` is a view of some blocks: steps on it show in the whole. So do steps on `block`,
    which leaves out what stands before.
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
    ) -> None:
        self.policy, self.mask_token_id, self.strict = policy, mask_token_id, strict
        self.ids, self.editable, self.flags = ids, editable, flags
        self.count_rows, self.limit = counts, limit
        self.parameters, self.buffers, self.sampling = parameters, buffers, sampling
        self.opened = opened
        self.done, self.dirty, self.bad, self.capped, self.reopened = flags
        self.counts = Planes(zip(COUNTS, counts, strict=True))
        self.draws = False  # whether a block of these has a temperature
        self.vocab: int | None = None  # how many ids there are, where it is known before a forward
        self.twin = policy.twin(self)
        self.now: ops.Contents | None = None  # while a decision is taken
        self.earlier, self.block = earlier, self
        if earlier:
            self.block = self._of_block(earlier)
            self.own = torch.arange(self.length, device=ids.device) >= earlier

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
        name = policy.name or type(policy).__name__
        if not NEEDS.issuperset(policy.needs) or isinstance(policy.needs, str):
            raise ValueError(
                f"policy {name} needs {policy.needs!r}: give a set of {', '.join(sorted(NEEDS))}"
            )
        if policy.plan not in PLANS:
            raise ValueError(f"policy {name} has plan {policy.plan!r}; it is {' or '.join(PLANS)}")
        blocks, length = ids.shape
        device = ids.device

        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        buffers = {
            name: full(
                buffer.initial, buffer.dtype, blocks, *([length] if buffer.per_position else [])
            )
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
        )
        state.set_policy(slice(None), policy, length)
        return state

    def set_policy(self, rows: int | slice, policy: Policy, length: int) -> None:
        """Give these blocks the parameters of `policy`; `length` of their positions are decided."""
        for name, (parameter, value) in policy.on_device().items():
            self.parameters[name][rows] = parameter.absent if value is None else value
        most = policy.most_forwards(length)
        if not isinstance(most, int) or most < 1:
            raise ValueError(f"most_forwards of policy {policy} must be at least 1; got {most!r}")
        self.limit[rows] = min(most, 2**31 - 1)

    @property
    def length(self) -> int:
        """L, the positions of a block and of what stands before it."""
        return self.ids.shape[1]

    def positions(self) -> Tensor:
        """Of the request, int64 [N, L]: what draws are keyed by."""
        start = self.sampling.start
        place = torch.arange(-self.earlier, self.length - self.earlier, device=start.device)
        return start[:, None] + place

    def _of_block(self, earlier: int) -> State:
        buffers = self.buffers.items()
        return State(
            self.policy,
            self.mask_token_id,
            self.strict,
            self.ids[:, earlier:],
            self.editable[:, earlier:],
            self.flags,
            self.count_rows,
            self.limit,
            self.parameters,
            Planes((name, b if b.ndim == 1 else b[:, earlier:]) for name, b in buffers),
            self.sampling,
            None,
        )

    def __getitem__(self, rows: slice) -> State:
        return State(
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
        )

    def fields(self) -> tuple[Tensor, ...]:
        """Every tensor whose first dimension is the block."""
        return (
            self.ids,
            self.editable,
            *(() if self.opened is None else (self.opened,)),
            *self.flags,
            *self.count_rows,
            self.limit,
            *self.parameters.values(),
            *self.buffers.values(),
            *self.sampling.fields(),
        )

    def reset(self, rows: int | Tensor) -> None:
        """Flags, counts and buffers as of fresh blocks: of block `rows`, or where `rows` [N] is.

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
                where = rows if plane.ndim == 1 else rows[:, None]
                plane.masked_fill_(where, buffer.initial)
            else:
                plane[rows] = buffer.initial

    def forbidden(self, vocab: int) -> tuple[int, ...]:
        """Ids that are never chosen from `vocab` ones: the mask, unless the released rule may."""
        inside = 0 <= self.mask_token_id < vocab
        return (self.mask_token_id,) if inside and not self.strict else ()

    def may_change(self) -> Tensor:
        """Positions that a decision may write, bool [N, L].

        The released loop commits a literal mask of the prompt, and never edits it.
        """
        may = self.editable
        if self.strict:
            may = may | (self.ids == self.mask_token_id)
        if self.opened is not None:
            may = may & self.opened
        if self.earlier:
            may = may & self.own | self.editable & self.reopened[:, None]
        return may

    def shown(self) -> Tensor:
        """What the next forward takes for `ids`, int64 [N, L]."""
        return self.policy.shown(self)

    def contents(self) -> ops.Contents:
        """The masks and tokens among the positions that may change, and how many of each."""
        if self.now is not None:
            return self.now
        return ops.contents(self.ids, self.may_change(), mask_token_id=self.mask_token_id)

    def masked(self) -> Tensor:
        """Where a mask is still to be committed, bool [N, L]."""
        return self.contents().masked
