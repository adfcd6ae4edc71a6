"""Writing what a rule decided into its blocks, and counting what has changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation

_KINDS = [*[torch.int64] * 2, *[torch.bool] * 4, torch.int32]


def write_blocks_(
    ids: Tensor,
    wanted: Tensor,
    may: Tensor,
    finished: Tensor,
    bad: Tensor,
    flags: Tensor,
    counts: Tensor,
    *,
    mask_token_id: int,
    judges_tokens: bool,
    buffers: Sequence[tuple[Tensor, Tensor]] = (),
    limit: Tensor | None = None,
    fallback: Tensor | None = None,
) -> None:
    """One decision on B blocks, in place: `ids`, `flags`, `counts` and `buffers` change.

    ids, wanted    [B, L] int64, what the blocks hold and what they are to hold
    may            [B, L] bool, positions that may change; the others keep their ids
    finished       [B] bool, the rule calls the block finished; it is, unless a mask is left in it
    bad            [B, L] bool, positions whose logits were bad
    flags          [4 or more, B] bool: done; dirty, whether this decision changed ids; bad, whether
                   a position that was judged had bad logits, which accumulates; capped
    counts         [4 or more, B] int32: decisions, masks that became tokens, tokens that became
                   other tokens, tokens that became masks
    judges_tokens  whether bad logits matter where a token is held, or at masks only
    buffers        pairs of [B, ...]: a tensor, and what it is to hold; a new content may be, or
                   share memory with, another tensor as it stands before
    limit          [B] int32, decisions that a block may take: where the last of them would not
                   finish it, masks become `fallback` [B, L] int64, nothing else changes, and the
                   block counts as capped. None: no limit

    Blocks that are done keep everything. Never raises for values and never synchronises. Raises
    ValueError for shapes and dtypes that do not fit.
    """
    shape, planes = ids.shape, (flags, counts)
    kinds = [x.dtype for x in (ids, wanted, may, bad, finished, flags, counts)]
    fits = wanted.shape == may.shape == bad.shape == shape and finished.shape == shape[:1]
    if kinds != _KINDS or not fits or any(plane.shape[1:] != shape[:1] for plane in planes):
        raise ValueError(
            f"of {list(shape)} positions ids and wanted must be int64, may and bad bool, and per "
            f"block finished and flags bool, counts int32; got {kinds} of shapes "
            f"{[list(x.shape) for x in (ids, wanted, may, bad, finished, flags, counts)]}"
        )
    for old, now in buffers:
        if now.dtype != old.dtype or now.shape != old.shape or len(old) != len(ids):
            raise ValueError(
                f"a buffer of {len(ids)} blocks and its new content must be alike; got {old.dtype} "
                f"{list(old.shape)} and {now.dtype} {list(now.shape)}"
            )
    if limit is not None and (
        limit.dtype != torch.int32
        or limit.shape != shape[:1]
        or fallback is None
        or fallback.dtype != torch.int64
        or fallback.shape != shape
    ):
        raise ValueError(
            f"with a limit int32 {list(shape[:1])} there must be a fallback int64 {list(shape)}; "
            f"got {limit.dtype} {list(limit.shape)}, "
            f"{fallback if fallback is None else (fallback.dtype, list(fallback.shape))}"
        )
    implementation("write_blocks_", ids.device.type)(
        ids,
        wanted,
        may,
        finished,
        bad,
        flags,
        counts,
        mask_token_id,
        judges_tokens,
        buffers,
        limit,
        fallback,
    )
