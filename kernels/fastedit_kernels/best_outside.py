"""The best token of a row outside a list of its own.

Reads the rows that are asked for once, their lists once per split, and writes 12 bytes per row. One
launch, as for the row statistics.
"""

import torch
import triton
import triton.language as tl

from fastedit_kernels.arrivals import id_list, is_last, workspace
from fastedit_kernels.splits import (
    LOG2E,
    TILE,
    WARPS,
    merge_splits,
    reduce_splits,
    share,
    split_width,
    splits_per_program,
)


@triton.jit(
    do_not_specialize=[
        *("length", "excluded_block", "excluded_row", "step", "n_excluded"),
        *("n_forbid", "rows", "splits", "per_program"),
    ]
)
def best_outside_kernel(
    logits,
    stride,
    length,
    gap,
    excluded,
    excluded_block,
    excluded_row,
    step,
    n_excluded,
    only,
    forbid,
    n_forbid,
    token_out,
    prob_out,
    numbers,
    tokens,
    counters,
    rows,
    vocab,
    splits,
    per_program,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    GAPS: tl.constexpr,
    ONLY: tl.constexpr,
):
    groups = tl.cdiv(splits, per_program)
    r = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * per_program
    row = logits + r.to(tl.int64) * stride
    block = (r // length).to(tl.int64)
    if GAPS:  # between the rows of one block and those of the next
        row += block * gap
    read = True
    if ONLY:
        read = tl.load(only + r) != 0
    if read:
        spot = r * splits
        spots = rows * splits
        reduce_splits(
            row,
            first,
            tl.minimum(first + per_program, splits),
            spot,
            vocab,
            LOG2E,
            forbid,
            n_forbid,
            numbers,
            tokens,
            spots,
            SPLIT,
            TILE,
            False,
            0,
            excluded + block * excluded_block + (r % length).to(tl.int64) * excluded_row,
            n_excluded,
            step,
            True,
        )
        if is_last(counters + r, groups):
            top, total, _, best, token, _ = merge_splits(
                spot, splits, LOG2E, numbers, tokens, spots, SPLITS, False
            )
            tl.store(token_out + r, tl.where(best > -float("inf"), token, -1).to(tl.int64))
            tl.store(prob_out + r, share(best, top, total, LOG2E))
    elif first == 0:
        tl.store(token_out + r, -1)
        tl.store(prob_out + r, 0.0)


def best_outside(
    logits: torch.Tensor,
    excluded: torch.Tensor,
    only: torch.Tensor | None,
    forbid: tuple[int, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(token, prob) of logits [R, V] or [B, L, V], whose last dimension is contiguous.

    excluded [R, K] or [B, L, K] int64 with any strides; only bool, contiguous, or None.
    """
    *shape, ids = excluded.shape
    length, vocab = logits.shape[-2:]
    gap = logits.stride(0) - length * logits.stride(1) if logits.ndim == 3 else 0
    *excluded_block, excluded_row, step = excluded.stride()
    device = logits.device
    token = torch.empty(shape, dtype=torch.int64, device=device)
    prob = torch.empty(shape, dtype=torch.float32, device=device)
    rows = token.numel()
    width = split_width(vocab)
    splits = triton.cdiv(vocab, width)
    per_program = splits_per_program(rows, splits)
    if rows:
        work = workspace(device, rows * splits)
        best_outside_kernel[(rows * triton.cdiv(splits, per_program),)](
            logits,
            logits.stride(-2),
            length,
            gap,
            excluded,
            excluded_block[0] if excluded_block else length * excluded_row,
            excluded_row,
            step,
            ids,
            only,
            id_list(device, forbid),
            len(forbid),
            token,
            prob,
            work.numbers,
            work.tokens,
            work.counters,
            rows,
            vocab,
            splits,
            per_program,
            SPLIT=width,
            SPLITS=triton.next_power_of_2(splits),
            TILE=TILE,
            GAPS=gap != 0,
            ONLY=only is not None,
            num_warps=WARPS,
        )
    return token, prob
