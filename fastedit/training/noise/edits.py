"""Labels of a draft that is to be edited inside its blocks: keep, replace, delete, insert."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastedit import ops
from fastedit.training.control import ControlTokens


class Runs(NamedTuple):
    """Response positions side by side in a block: tokens move inside such a run, and not beyond.

    place   [S, n] int64 on the CPU, into a flattened [B, L]; behind a run, anything
    length  [S] int64 on the CPU
    """

    place: Tensor
    length: Tensor

    @classmethod
    def of(cls, response: Tensor, block_size: int) -> Runs:
        """Of `response`, bool [B, L] of whole blocks, on the CPU."""
        blocks = response.view(-1, block_size)
        before = torch.cat([torch.zeros_like(blocks[:, :1]), blocks[:, :-1]], dim=1)
        first = (blocks & ~before).flatten()
        length = torch.bincount(first.cumsum(0)[blocks.flatten()] - 1)
        place = first.nonzero() + torch.arange(block_size)
        return cls(place.clamp_(max=first.numel() - 1), length)


def lcs_labels(
    ids: Tensor,
    clean: Tensor,
    runs: Runs,
    control: ControlTokens,
    *,
    mask_token_id: int,
    wildcard: bool,
) -> Tensor:
    """Labels of `ids` [B, L] beside `clean` ones, run by run, see `ops.lcs_labels`; all on the CPU.

    int64 [B, L]; the clean ids where there is no response.
    """
    assert control.insert is not None
    made = ops.lcs_labels(
        ids.flatten()[runs.place],
        clean.flatten()[runs.place],
        runs.length,
        runs.length,
        mask_token_id=mask_token_id,
        delete_token_id=control.delete,
        insert_token_id=control.insert,
        wildcard=wildcard,
    )
    own = torch.arange(made.shape[1]) < runs.length[:, None]
    return clean.flatten().index_copy(0, runs.place[own], made[own]).view_as(clean)


def on_host(*values: Tensor) -> Callable[[], list[Tensor]]:
    """Gives copies on the CPU, and waits for no more than the device has been given by now."""
    if not values[0].is_cuda:
        return lambda: [value.cpu() for value in values]
    copies = [torch.empty_like(value, device="cpu", pin_memory=True) for value in values]
    for copy, value in zip(copies, values, strict=True):
        copy.copy_(value, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def arrived() -> list[Tensor]:
        copied.synchronize()
        return copies

    return arrived
