"""Sequences that shrink and grow: what a decision deletes and inserts, in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.state import State


def rewrite_(state: State, keep: Tensor, insert: Tensor, names: Sequence[str]) -> None:
    """Delete and insert in sequences of variable lengths; buffers `names` move with their ids.

    keep    bool [n, L], positions whose token stays; insert: int64 [n, L], what comes before it, a
            negative number for nothing. Both leave alone what may not change

    Where `state` is the first positions of another one, that one gets the result; else its own
    tensors are replaced by ones as wide as the longest sequence is then, which waits for the
    device.
    """
    assert state.lengths is not None
    (blocks, width), kinds, filler = state.ids.shape, state.policy.buffers, _filler(state)
    exists = state.exists()
    state.dirty.logical_or_((~keep | (insert >= 0)).any(-1))
    planes = [state.editable, *(state.buffers[name] for name in names)]
    blanks: list[float] = [True, *(kinds[name].initial for name in names)]
    packed, moved, bounds = ops.compact(
        state.ids.flatten(),
        torch.arange(blocks + 1, device=keep.device) * width,
        (keep & exists).flatten(),
        insert.flatten(),
        [plane.flatten() for plane in planes],
        blanks,
        capacity=2 * blocks * width,  # one insert for each token at most
        fill=filler,
    )
    lengths, whole = bounds.diff(), state.whole
    state.lengths.copy_(lengths)
    most = int(lengths.max()) if whole is None else min(2 * width, whole.length)
    places = torch.arange(most, device=keep.device)
    where = (bounds[:-1, None] + places).clamp_(max=max(len(packed) - 1, 0))
    there = places < lengths[:, None]
    ids, editable, *buffers = (
        torch.where(there, values[where], blank)
        for values, blank in zip((packed, *moved), (filler, *blanks), strict=True)
    )
    if whole is None:
        state.ids, state.editable = ids, editable
    else:
        whole.ids[:, :most], whole.editable[:, :most] = ids, editable
    for name, values in zip(names, buffers, strict=True):
        if whole is None:
            state.buffers.replace(name, values)
        else:
            whole.buffers[name][:, :most] = values


def _filler(state: State) -> int:
    """What ids hold behind the end of a sequence."""
    padding = state.policy.padding
    return state.mask_token_id if padding is None else padding
