"""Sequences that shrink and grow: what a decision deletes and inserts, in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.state import State


def rewrite_(
    state: State, keep: Tensor, insert: Tensor, gone: Tensor, names: Sequence[str]
) -> None:
    """Delete and insert in sequences of variable lengths; buffers `names` move with their ids.

    keep    bool [n, L], positions whose token stays; insert: int64 [n, L], what comes before it, a
            negative number for nothing. Both leave alone what may not change
    gone    bool [n, L], what is not kept and counts as deleted

    Where `state` is the first positions of another one, that one gets the result; else its own
    tensors are replaced by ones as wide as the longest sequence is then. Waits for the device.
    """
    assert state.lengths is not None
    whole = state.whole
    if not (~keep | (insert >= 0)).any():
        _note(state if whole is None else whole, torch.arange(state.length, device=keep.device))
        return
    (blocks, width), kinds, filler = state.ids.shape, state.policy.buffers, _filler(state)
    exists, device = state.exists(), keep.device
    state.dirty.logical_or_((~keep | (insert >= 0)).any(-1))
    places = torch.arange(width, device=device).expand_as(keep)
    planes = [state.editable, places, *(state.buffers[name] for name in names)]
    blanks: list[float] = [True, -1, *(kinds[name].initial for name in names)]
    packed, moved, bounds = ops.compact(
        state.ids.flatten(),
        torch.arange(blocks + 1, device=device) * width,
        (keep & exists).flatten(),
        insert.flatten(),
        [plane.flatten() for plane in planes],
        blanks,
        capacity=2 * blocks * width,  # one insert for each token at most
        fill=filler,
    )
    lengths = bounds.diff()
    state.lengths.copy_(lengths)
    most = int(lengths.max()) if whole is None else min(2 * width, whole.length)
    columns = torch.arange(most, device=device)
    where = (bounds[:-1, None] + columns).clamp_(max=max(len(packed) - 1, 0))
    there = columns < lengths[:, None]
    ids, editable, source, *buffers = (
        torch.where(there, values[where], blank)
        for values, blank in zip((packed, *moved), (filler, *blanks), strict=True)
    )
    if whole is None:
        state.ids, state.editable = ids, editable
        state.moves = ids.new_empty(3, blocks, max(most, width))
        for name, values in zip(names, buffers, strict=True):
            state.buffers.replace(name, values)
    else:
        whole.ids[:, :most], whole.editable[:, :most] = ids, editable
        for name, values in zip(names, buffers, strict=True):
            whole.buffers[name][:, :most] = values
    _note(state if whole is None else whole, source, insert >= 0, gone)


def _note(state: State, source: Tensor, *flags: Tensor) -> None:
    """What moved, in the first columns of `State.moves`."""
    assert state.moves is not None
    state.moves[0].fill_(-1)[:, : source.shape[-1]] = source
    state.moves[1:].zero_()
    for plane, flag in zip(state.moves[1:], flags, strict=False):
        plane[:, : flag.shape[-1]] = flag


def _filler(state: State) -> int:
    """What ids hold behind the end of a sequence."""
    padding = state.policy.padding
    return state.mask_token_id if padding is None else padding
