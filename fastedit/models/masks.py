"""Who may attend to whom: bool masks, True = may attend."""

from __future__ import annotations

import torch
from torch import Tensor


def block_causal_mask(
    query_positions: Tensor, key_positions: Tensor | None = None, *, block_size: int
) -> Tensor:
    """Block-causal mask: a query sees every key of its own and of earlier blocks.

    `query_positions` [B, Q] and `key_positions` [B, K] (default: the same) are token positions in
    the row, block = position // block_size. Returns bool [B, 1, Q, K].
    """
    if block_size < 1:
        raise ValueError(f"block_size must be positive, got {block_size}")
    if key_positions is None:
        key_positions = query_positions
    query_blocks = query_positions.div(block_size, rounding_mode="floor")
    key_blocks = key_positions.div(block_size, rounding_mode="floor")
    return key_blocks[:, None, None, :] <= query_blocks[:, None, :, None]


def mask_and_positions(
    attention_mask: Tensor | None,
    positions: Tensor | None,
    hidden: Tensor,
    cached: int,
    block_size: int,
) -> tuple[Tensor | None, Tensor]:
    """What a forward of `hidden` [B, Q, H] attends to, and its positions [1 or B, Q].

    The mask is that of `resolve_mask`, or None where every query sees every key. Without a cache or
    a 4-D mask, documents packed by given positions that begin again stay apart.
    """
    shape = hidden.shape[:2]
    # An exported program serves any length, so it always has a mask.
    unmasked = attention_mask is None and not torch.compiler.is_exporting()
    if unmasked and is_one_block(positions, shape, cached, block_size):
        if positions is None:
            positions = default_positions(None, shape, cached, hidden.device)
        return None, positions
    padding = attention_mask is None or attention_mask.ndim == 2
    packed = padding and positions is not None and cached == 0
    if positions is None:
        positions = default_positions(attention_mask, shape, cached, hidden.device)
    mask = resolve_mask(attention_mask, positions, shape, cached, block_size)
    if packed:
        ids = document_ids(positions)[:, None]
        mask = mask & (ids[..., :, None] == ids[..., None, :])
    return mask, positions


def document_ids(positions: Tensor) -> Tensor:
    """Ids [B, Q], equal inside a document: one begins where `positions` [B, Q] do not increase.

    transformers' convention for packed rows, but that a gap does not end a document.
    """
    return (positions <= positions.roll(1, dims=1)).cumsum(dim=1)


def default_positions(
    attention_mask: Tensor | None, shape: torch.Size, cached: int, device: torch.device
) -> Tensor:
    """Positions [1 or B, Q] of the queries: consecutive, skipping the padding of a 2-D mask."""
    if attention_mask is not None and attention_mask.ndim == 2:
        return _token_positions(attention_mask)[:, cached:]
    return torch.arange(cached, cached + shape[1], device=device)[None]


def is_one_block(positions: Tensor | None, shape: torch.Size, cached: int, block_size: int) -> bool:
    """Whether the queries of an unmasked forward are one block, which needs no mask.

    Explicit `positions` are not looked at beside a cache (that would synchronise the device): up
    to `block_size` queries are then taken for one block.
    """
    if positions is None:
        return cached // block_size == (cached + shape[1] - 1) // block_size
    return cached > 0 and shape[1] <= block_size


def resolve_mask(
    attention_mask: Tensor | None,
    positions: Tensor,
    shape: torch.Size,
    cached: int,
    block_size: int,
) -> Tensor:
    """The bool mask [1 or B, 1, Q, K] of a forward with K = `cached` + Q keys.

    `shape` is (B, Q), `positions` [1 or B, Q]. What `attention_mask` may be:

    * None: block-causal over the queries, and every cached key is visible.
    * 2-D [B, K], non-zero = token: block-causal, padding never attended.
    * 4-D [1 or B, 1 or heads, Q, K] bool: as it is. Float: only if additive (0 or hugely negative).

    Raises ValueError for any other mask; a 0/1 float mask would be *added* to the scores.
    """
    if attention_mask is None:
        mask = block_causal_mask(positions, block_size=block_size)
        return torch.nn.functional.pad(mask, (cached, 0), value=True) if cached else mask
    if attention_mask.ndim == 2:
        keys = cached + shape[1]
        if tuple(attention_mask.shape) != (shape[0], keys):
            raise ValueError(
                f"a 2-D attention_mask must be [batch, cached + query tokens] = "
                f"[{shape[0]}, {keys}], got {list(attention_mask.shape)}"
            )
        past = _token_positions(attention_mask)[:, :cached]
        key_positions = torch.cat([past, positions.expand(shape)], dim=1)
        mask = block_causal_mask(positions, key_positions, block_size=block_size)
        return mask & attention_mask.bool()[:, None, None, :]
    return _checked_4d(attention_mask, shape)


def open_empty_rows(mask: Tensor) -> Tensor:
    """`mask` with rows that see nothing (padding queries) opened: meaningless but finite output."""
    return mask | ~mask.any(dim=-1, keepdim=True)


def _token_positions(attention_mask: Tensor) -> Tensor:
    return (attention_mask.bool().long().cumsum(dim=-1) - 1).clamp_(min=0)


def _checked_4d(mask: Tensor, shape: torch.Size) -> Tensor:
    fits = mask.ndim == 4 and mask.shape[0] in (1, shape[0]) and mask.shape[1] == 1
    if not fits or mask.shape[2] != shape[1]:
        raise ValueError(
            f"attention_mask must be [batch, keys] or [batch, 1, queries, keys] for "
            f"{shape[0]} rows of {shape[1]} queries, got {list(mask.shape)}"
        )
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point():
        allowed = mask == 0
        # A mask made for another dtype still counts: finfo(float16).min is -65504.
        if bool((allowed | (mask <= -65504)).all()):
            return allowed
    raise ValueError(
        f"a 4-D attention_mask must be bool (True = may attend), got {mask.dtype} with values "
        "other than 0 and -inf: a 0/1 mask would be added to the scores. Pass mask.bool()."
    )
