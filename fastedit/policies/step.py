"""One decision: statistics of the logits, the rule, and what it changes, all on the device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Policy, Stats, Write
from fastedit.policies.fields import HEAT, checked
from fastedit.policies.registry import parse
from fastedit.policies.state import State
from fastedit.policies.varying import rewrite_

# So that draws of the head for the next token are others than those at the same position.
NEXT_DRAWS = 0x5DEECE66D


def open(
    policy: Policy | str,
    ids: Tensor,
    editable: Tensor | None = None,
    *,
    mask_token_id: int,
    seed: int = 0,
    start: int | Tensor = 0,
    temperature: float = 0.0,
    strict_reference: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
) -> State:
    """The state of blocks that somebody else's loop decodes; `step_` takes a decision on it.

    policy    an object, or `name:field=value,...`
    ids       [B, L] int64, what the blocks hold; copied
    editable  [B, L] bool; None: all of it
    seed      of the draws, where there are any; start: absolute position of the blocks' first
              tokens, one number or [B]
    temperature  0.0 is greedy
    lengths   [B], how many of the L positions each sequence has, for a policy that inserts and
              deletes; None: all

    Sequences of such a policy (`me_dlm`) shrink and grow. `state.ids` [B, W] is as wide as the
    longest of them is by now, so that of one sequence it holds exactly its ids; in general
    `state.ids[b, : state.lengths[b]]` does, and what is behind means nothing. The next logits are
    of these W positions. Each row is a whole sequence, its prompt in front.

    Raises TypeError and ValueError for wrong shapes and types, and for an unknown policy.
    """
    chosen = parse(policy) if isinstance(policy, str) else policy
    if not isinstance(chosen, Policy):
        raise TypeError(f"policy must be a policy or its text; got {policy!r}")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype != torch.int64:
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)[:80]
        raise ValueError(f"ids must be a tensor int64 [B, L]; got {found}")
    if editable is not None and (editable.shape != ids.shape or editable.dtype != torch.bool):
        raise ValueError(
            f"editable must be bool {list(ids.shape)}, as ids are; "
            f"got {editable.dtype} {list(editable.shape)}"
        )
    if mask_token_id in chosen.control_ids:
        raise ValueError(f"mask_token_id={mask_token_id} is a control id of policy {chosen}")
    for name, token in chosen.named_ids().items():
        if token == mask_token_id:
            raise ValueError(f"mask_token_id={token} is the {name} of policy {chosen}")
    heat = checked("temperature", temperature, HEAT)
    state = State.new(chosen, ids.clone(), int(mask_token_id), strict=strict_reference)
    if editable is not None:
        state.editable.copy_(editable)
    state.sampling.seed.fill_((seed + 2**63) % 2**64 - 2**63)  # as signed 64 bits
    state.sampling.start.copy_(torch.as_tensor(start))
    state.sampling.temperature.fill_(heat)
    state.draws = heat > 0.0
    if chosen.variable:
        _set_lengths(state, lengths)
    elif lengths is not None:
        raise ValueError(f"lengths are for policies that insert and delete, not for {chosen}")
    return state


def _set_lengths(state: State, lengths: Tensor | Sequence[int] | None) -> None:
    """How many positions each sequence has, and how many it may have."""
    assert state.lengths is not None and state.limits is not None
    blocks, width = state.ids.shape
    if lengths is not None:
        given = torch.as_tensor(lengths, device=state.ids.device)
        if given.shape != (blocks,) or given.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"lengths must be integers [{blocks}], one per row of ids; "
                f"got {given.dtype} {list(given.shape)}"
            )
        if blocks and not 0 <= int(given.min()) <= int(given.max()) <= width:
            raise ValueError(f"lengths must be from 0 to {width}, as ids are; got {lengths}")
        state.lengths.copy_(given)
    most = state.policy.most_tokens
    if most is not None:
        state.limits.copy_(most - state.sampling.start)


def step_(
    state: State,
    logits: Tensor,
    scores: Tensor | None = None,
    next_logits: Tensor | None = None,
    shadow_logits: Tensor | None = None,
    draws: Tensor | None = None,
) -> None:
    """One decision in place: `state.ids`, `state.done`, `state.counts`, `state.buffers`.

    logits         [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts ids[b, i], no shift
    scores         [B, L] fp32 of a head, for policies that need "score"
    next_logits    [B, L, V] of a head that predicts the next token, for those that need it; None
                   while no block does, as in the mask phase of `me_dlm`
    shadow_logits  [B, L, V] of rows that see a mask at their own position, for plan "shadow"
    draws          [B, L] int64: tokens to use in place of what would be drawn

    Never raises for values, and never waits for the device but where a policy inserts and deletes:
    the width of `state.ids` follows from what it did. Logits are written to meanwhile where ids are
    left out of the softmax, and are as they were behind it. Raises ValueError for what the policy
    needs and is not given, and for shapes that are not those of the state.
    """
    twin = state.twin
    if twin and draws is None and logits is not None and twin(logits, state.draws):
        return  # it has checked for itself
    _check_given(state, logits, scores, next_logits, shadow_logits, draws)
    state.now = state.contents()
    try:
        with _without(logits, state.policy.excluded(state)) as (left, excluded):
            stats = _statistics(state, left, draws)
        stats.scores, stats.excluded = scores, excluded
        if shadow_logits is not None:
            stats.shadow = _statistics(state, shadow_logits, None)
        if next_logits is not None:
            stats.following = _statistics(state, next_logits, None, following=True)
        _apply(state, state.policy.decide(stats, state), stats)
    finally:
        state.now = None


def _check_given(
    state: State, logits: Tensor, scores: Any, next_logits: Any, shadow_logits: Any, draws: Any
) -> None:
    policy, shape = state.policy, state.ids.shape
    for needed, name, value in (
        (True, "logits", logits),
        ("score" in policy.needs, "scores", scores),
        (next_logits is None and _wants_next(state), "next_logits", next_logits),
        (policy.plan == "shadow", "shadow_logits", shadow_logits),
        (False, "draws", draws),
    ):
        if value is None and needed:
            raise ValueError(f"{policy.name or type(policy).__name__} needs {name}")
        if value is not None and value.shape[:2] != shape:
            raise ValueError(
                f"{name} must be [{shape[0]}, {shape[1]}, ...] as the ids of the state are; "
                f"got {list(value.shape)}"
            )


def _wants_next(state: State) -> bool:
    """Whether a block that is not done needs the head for the next token; waits for the device."""
    if "next_token" not in state.policy.needs or not state.wants_next:
        return False
    return bool((state.policy.wants_next(state) & ~state.done).any())


@contextlib.contextmanager
def _without(logits: Tensor, ids: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Logits of which those of `ids` int64 [n, k] are -inf; and what these are, fp32 [n, L, k].

    They are those given, and put back behind it: a copy would be one more read and write of all.
    """
    if ids is None:
        yield logits, None
        return
    (blocks, length, vocab), device = logits.shape, logits.device
    if not all(logits.stride()):  # one row that stands for several
        logits = logits.contiguous()
    is_id = (ids >= 0) & (ids < vocab)
    ids = torch.where(is_id, ids, torch.where(is_id, ids, -1).amax(-1, keepdim=True))
    is_id = (ids >= 0)[:, None]  # where there is one, others stand for it as well
    rows = torch.arange(blocks, device=device)[:, None, None]
    places = torch.arange(length, device=device)[:, None]
    # Not gather and scatter_: the latter takes 60 ms for bfloat16 on a CPU, whatever it writes.
    where = rows, places, ids.clamp(min=0)[:, None]
    held = logits[where]
    with torch.inference_mode():  # the logits may be tensors of it
        logits[where] = held.masked_fill(is_id, -torch.inf)
        try:
            yield logits, held.float().masked_fill(~is_id, -torch.inf)
        finally:
            logits[where] = held


def _statistics(
    state: State, logits: Tensor, draws: Tensor | None, following: bool = False
) -> Stats:
    """Of the positions of `state`; following: of the head for the next token."""
    policy, shape = state.policy, state.ids.shape
    heat = policy.heat(state)
    samples = "sample" in policy.needs
    drawn = (samples or state.draws) and draws is None
    options: dict[str, Any] = {"forbid": state.forbidden(logits.shape[-1], following)}
    if "entropy" in policy.needs:
        options["entropy"] = True
    if "top_k" in policy.needs:
        options["top_k"] = policy.ranks
    if heat is None and state.draws:
        heat = state.sampling.temperature
        heat = torch.where(heat > 0.0, heat, 1.0)
    if heat is not None:
        options["temperature"] = heat[:, None].expand(shape)
    if drawn:
        options["draws"] = _draws(state, following)
    if not (policy.judges_tokens and policy.reads_tokens):
        options["only"] = state.mask_token_id
    current, reads = state.ids, policy.reads(state, following)
    if reads is not None:  # none of the ids is negative
        current, options["only"] = current.masked_fill(reads, -1), -1
    rows = ops.row_stats(logits, current, **options)
    token, prob, sample, sample_prob = rows.token, rows.prob, rows.sample, rows.sample_prob
    if draws is not None:
        options |= {"forbid": (), "only": None}
        sample, sample_prob = draws, ops.row_stats(logits, draws, **options).prob_current
    if sample is not None and sample_prob is not None and not samples:
        # Rows with a temperature take their draw as the best.
        takes = (state.sampling.temperature > 0.0)[:, None]
        token = torch.where(takes, sample, token)
        prob = torch.where(takes, sample_prob, prob)
        sample = sample_prob = None
    if reads is not None and not following:  # where there is nothing to choose from, what is held
        token = torch.where(token < 0, state.ids, token)
    logit = logit_current = None
    if "logit" in policy.needs:
        ids = torch.stack((token, state.ids), dim=-1)
        ids.clamp_(0, logits.shape[-1] - 1)  # the mask may be no id of the logits
        logit, logit_current = logits.gather(-1, ids).float().unbind(-1)
    outside = None
    if "outside" in policy.needs:
        outside = functools.partial(_outside, logits, options["forbid"])
    return Stats(
        token=token,
        prob=prob,
        prob_current=rows.prob_current,
        bad=rows.bad,
        vocab=logits.shape[-1],
        entropy=rows.entropy,
        top_tokens=rows.top_tokens,
        top_probs=rows.top_probs,
        sample=sample,
        sample_prob=sample_prob,
        logit=logit,
        logit_current=logit_current,
        outside=outside,
    )


def _outside(logits: Tensor, forbid: tuple[int, ...], excluded: Tensor, only: Tensor) -> Tensor:
    """As `Stats.outside` says."""
    return ops.best_outside(logits, excluded, only=only, forbid=forbid)[0]


def _draws(state: State, following: bool) -> ops.RowDraws:
    """The key of every position's draw."""
    draws, shape = state.sampling, state.ids.shape
    forward = state.counts["forwards"].long()
    nucleus = state.policy.nucleus(state)
    if nucleus is None:
        nucleus = draws.top_p
    seed = draws.seed ^ NEXT_DRAWS if following else draws.seed
    seed, forward, top_k, top_p = (
        each[:, None].expand(shape) for each in (seed, forward, draws.top_k, nucleus)
    )
    return ops.RowDraws(seed, state.positions(), forward, top_k, top_p)


def _apply(state: State, write: Write, stats: Stats) -> None:
    """Write what may be written, and count what has changed; blocks that are done keep theirs."""
    policy = state.policy
    if not policy.rewrites and not (write.keep is None and write.insert is None):
        name = policy.name or type(policy).__name__
        raise ValueError(f"policy {name} inserts or deletes: say so, with `rewrites = True`")
    bounded = policy.may_reach_bound
    active = ~state.done if policy.rewrites else None
    ops.write_blocks_(
        state.ids,
        write.ids,
        state.may_change(),
        write.done,
        policy.bad(stats, state),
        state.flags,
        state.count_rows,
        mask_token_id=state.mask_token_id,
        judges_tokens=policy.judges_tokens,
        buffers=[_fitted(state.buffers[name], now) for name, now in write.buffers.items()],
        limit=state.limit if bounded else None,
        fallback=stats.token if bounded else None,
    )
    if active is not None:
        _rewrite(state, write, active)
    if write.reopen is not None:
        # Keys and values of a forward in which blocks saw those behind them are stale in any case.
        state.dirty.logical_or_(state.reopened)
        state.reopened.logical_or_(write.reopen & ~state.done)


def _rewrite(state: State, write: Write, active: Tensor) -> None:
    """Insert and delete in blocks that are `active` [n]; buffers per position move with their ids.

    A block that gets a mask by this is not done.
    """
    may = state.may_change()
    moves = may & active[:, None]  # flags of what stays where it is count for nothing
    nothing = torch.zeros_like(may)
    keep = ~nothing if write.keep is None else write.keep | ~moves
    insert = nothing if write.insert is None else write.insert & moves
    gone = ~keep
    if write.padding is not None:
        gone = gone & ~write.padding[:, None]
    flags = insert, gone
    for count, flag in zip((state.counts.inserts, state.counts.deletes), flags, strict=True):
        count.add_(flag.sum(-1, dtype=torch.int32))
    kinds = state.policy.buffers
    names = [name for name, kind in kinds.items() if kind.per_position and not kind.history]
    if state.lengths is not None:
        token = state.mask_token_id if write.inserted is None else write.inserted
        rewrite_(state, keep, torch.where(insert, token, -1), gone, names)
        return
    assert state.moves is not None
    source, *noted = state.moves
    for plane, flag in zip(noted, flags, strict=True):
        plane.copy_(flag)
    planes = [state.buffers[name] for name in names]
    places = torch.arange(state.length, device=may.device).expand(may.shape)
    ids, moved = ops.rewrite_blocks(
        state.ids,
        keep,
        insert,
        state.mask_token_id,
        [*planes, places],
        [*(kinds[name].initial for name in names), -1],
        fixed=~may,
    )
    state.dirty.logical_or_((ids != state.ids).any(-1))
    state.done.logical_and_(~(active & ((ids == state.mask_token_id) & may).any(-1)))
    for plane, new in zip((state.ids, *planes, source), (ids, *moved), strict=True):
        plane.copy_(new)


def _fitted(buffer: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """A buffer and its new content, as a tensor of the same kind."""
    if now.dtype != buffer.dtype:
        now = now.to(buffer.dtype)
    return buffer, now if now.shape == buffer.shape else now.expand_as(buffer)
