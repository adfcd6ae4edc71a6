"""Sequences that shrink and grow: what a decision deletes and inserts, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Write
from fastedit.policies.state import State


def rewrite_(state: State, write: Write, may: Tensor, active: Tensor) -> None:
    """Delete and insert what `write` says, and count it; the lengths of blocks change.

    state   holds the ids of `write` already. Where it is the first positions of another one, that
            one gets the result; else its own tensors are replaced by ones as wide as the longest
            block is then, which waits for the device
    may     bool [n, L], positions that may change; active: bool [n], blocks that may

    A deleted token that is the policy's padding is not counted: it stood for no text.
    """
    if write.keep is None or write.insert is None:
        return
    assert state.lengths is not None
    (blocks, width), policy, exists = state.ids.shape, state.policy, state.exists()
    may = may & active[:, None]
    keep, insert = write.keep | ~may, write.insert & may
    token = state.mask_token_id if write.inserted is None else write.inserted
    text = write.ids != (-1 if policy.padding is None else policy.padding)
    deletes, inserts = (~keep & text).sum(-1), insert.sum(-1)
    state.counts["deletes"].add_(deletes)
    state.counts["inserts"].add_(inserts)
    state.dirty.logical_or_((~keep | insert).any(-1))

    cu_seqlens = torch.arange(blocks + 1, device=may.device) * width
    names = [name for name, buffer in policy.buffers.items() if buffer.per_position]
    ids, (editable, *planes), bounds = ops.compact(
        state.ids.flatten(),
        cu_seqlens,
        (keep & exists).flatten(),
        torch.where(insert, token, -1).flatten(),
        [state.editable.flatten(), *(state.buffers[name].flatten() for name in names)],
        [True, *(policy.buffers[name].initial for name in names)],
        capacity=2 * blocks * width,
        fill=filler(state),
    )
    lengths = bounds.diff()
    state.lengths.copy_(torch.where(active, lengths, state.lengths))
    whole = state.whole
    most = int(lengths.max()) if whole is None else min(2 * width, whole.length)
    columns = torch.arange(most, device=may.device)
    where = (bounds[:-1, None] + columns).clamp_(max=max(len(ids) - 1, 0))
    there = columns < lengths[:, None]

    def laid_out(packed: Tensor, blank: float | Tensor) -> Tensor:
        return torch.where(there, packed[where], blank)

    each = {name: laid_out(p, policy.buffers[name].initial) for name, p in zip(names, planes)}
    new = laid_out(ids, filler(state)), laid_out(editable, torch.ones_like(there))
    if whole is None:
        state.ids, state.editable = new
        for name, plane in each.items():
            state.buffers[name] = plane
            setattr(state.buffers, name, plane)
        return
    whole.ids[:, :most], whole.editable[:, :most] = new
    for name, plane in each.items():
        whole.buffers[name][:, :most] = plane


def filler(state: State) -> int:
    """What ids hold behind the end of a sequence."""
    padding = state.policy.padding
    return state.mask_token_id if padding is None else padding
