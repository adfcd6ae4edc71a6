"""What a rule decided, into the blocks: ids, flags, counts, buffers, inserts and deletes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit import ops
from fastedit.ops.steps import holds_best
from fastedit.policies.base import Policy
from fastedit.policies.declared import check_ids, check_write, name_of
from fastedit.policies.state import State
from fastedit.policies.values import Stats, Watch, Write
from fastedit.policies.varying import rewrite_


def apply_(state: State, write: Write, stats: Stats, watch: Watch | None = None) -> None:
    """Write what may be written, and count what has changed; blocks that are done keep theirs."""
    policy = state.policy
    check_write(policy, write, state.ids)
    may = state.may_change()
    check_ids(policy, write.ids, may, state.done, state.mask_token_id, stats.vocab)
    bounded = policy.may_reach_bound
    active = ~state.done if policy.rewrites else None
    bad = policy.bad(stats, state)
    ops.write_blocks_(
        state.ids,
        _with_candidates(state, write.ids, stats, bad) if policy.judges_tokens else write.ids,
        may,
        write.done,
        bad,
        state.flags,
        state.count_rows,
        mask_token_id=state.mask_token_id,
        judges_tokens=policy.judges_tokens,
        buffers=[
            _fitted(policy, name, state.buffers[name], b) for name, b in write.buffers.items()
        ],
        limit=state.limit if bounded else None,
        fallback=stats.token if bounded else None,
    )
    if watch is not None:
        watch.wrote(state.ids)
    if active is not None:
        state.may = None  # which masks of a prompt may change depends on the ids
        _rewrite(state, write, active)
    if write.reopen is not None:
        # Keys and values of a forward in which blocks saw those behind them are stale in any case.
        state.dirty.logical_or_(state.reopened)
        state.reopened.logical_or_(write.reopen & ~state.done)


def _with_candidates(state: State, wanted: Tensor, stats: Stats, bad: Tensor) -> Tensor:
    """`wanted`, but what is held where a row that was judged has nothing to choose from."""
    if bad.device.type == "cpu" and not bad.any():
        return wanted
    judged = stats if stats.shadow is None else stats.shadow
    none = bad & holds_best(judged.token, judged.prob, state.ids)
    return torch.where(none, state.ids, wanted)


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


def _fitted(policy: Policy, name: str, buffer: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """A buffer and its new content, as a tensor of the same kind."""
    if now.dtype != buffer.dtype:
        now = now.to(buffer.dtype)
    if now.shape != buffer.shape:
        try:
            now = now.expand_as(buffer)
        except RuntimeError:
            raise ValueError(
                f"buffer {name!r} of policy {name_of(policy)} is {list(buffer.shape)}; "
                f"got {list(now.shape)}"
            ) from None
    return buffer, now
