"""Blocks that a step of `fastedit.ops` decides, with what it counts and flags of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.ops.logits import check_logits


@dataclass(frozen=True)
class Blocks:
    """B blocks of L positions, all tensors on the CPU; `flags` and `counts` as of `write_blocks_`.

    ids     [B, L] int64, what they hold
    may     [B, L] bool, positions that may change
    flags   [4 or more, B] bool: done, dirty, bad, capped
    counts  [4 or more, B] int32: decisions, commits, edits, remasks
    """

    ids: Tensor
    may: Tensor
    flags: Tensor
    counts: Tensor
    mask_token_id: int

    def check(self, logits: Tensor) -> tuple[int, ...]:
        """The shape of `logits`, [B, L, V]. Raises TypeError or ValueError for what does not fit.

        Back ends take bare addresses: what does not fit must not reach them.
        """
        shape = check_logits(logits, 3)
        if shape[:2] != self.ids.shape or logits.device.type != "cpu":
            raise ValueError(
                f"logits must be [B, L, V] on the CPU, a row for each of the ids "
                f"{list(self.ids.shape)}; got {list(shape)} on {logits.device}"
            )
        self.check_values(torch.int64, 2, ids=self.ids)
        self.check_values(torch.bool, 2, may=self.may)
        for name, value, kind in (
            ("flags", self.flags, torch.bool),
            ("counts", self.counts, torch.int32),
        ):
            fits = len(value) >= 4 and value.shape[1:] == shape[:1] and value.dtype == kind
            if not fits or value.device.type != "cpu":
                raise ValueError(
                    f"{name} must be {kind} [4 or more, {shape[0]}] on the CPU; "
                    f"got {value.dtype} {list(value.shape)} on {value.device}"
                )
        return shape

    def check_values(self, dtype: torch.dtype, dims: int, **values: Tensor) -> None:
        """Of values per block (dims 1) or per position (2), by name. Raises ValueError."""
        shape = self.ids.shape[:dims]
        for name, value in values.items():
            if value.shape != shape or value.dtype != dtype or value.device.type != "cpu":
                raise ValueError(
                    f"{name} must be {dtype} {list(shape)} on the CPU; "
                    f"got {value.dtype} {list(value.shape)} on {value.device}"
                )

    def forbidden(self, vocab: int, strict_reference: bool) -> tuple[int, ...]:
        """Ids that are never chosen: the mask, unless the released rule may."""
        chosen = strict_reference or not 0 <= self.mask_token_id < vocab
        return () if chosen else (self.mask_token_id,)
