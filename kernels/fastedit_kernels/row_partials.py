"""Statistics of a vocabulary shard: what another rank needs to go on with, before any division.

Reads the logits once and writes 21 bytes per row. One launch, as for the row statistics.
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
    split_width,
    splits_per_program,
)


@triton.jit(do_not_specialize=["n_forbid", "rows", "splits", "per_program"])
def row_partials_kernel(
    logits,
    stride,
    forbid,
    n_forbid,
    top_out,
    total_out,
    best_out,
    token_out,
    bad_out,
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
):
    groups = tl.cdiv(splits, per_program)
    r = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * per_program
    row = logits + r.to(tl.int64) * stride
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
    )
    if is_last(counters + r, groups):
        top, total, _, best, token, bad = merge_splits(
            spot, splits, LOG2E, numbers, tokens, spots, SPLITS, False
        )
        tl.store(top_out + r, top)
        tl.store(total_out + r, total)
        tl.store(best_out + r, best)
        tl.store(token_out + r, tl.where(best > -float("inf"), token, -1).to(tl.int64))
        tl.store(bad_out + r, bad != 0)


def row_partials(logits: torch.Tensor, forbid: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """(max, sum of exp(x - max), best allowed, its column or -1, bad) of logits [R, W]."""
    rows, vocab = logits.shape
    device = logits.device
    floats = torch.empty(3, rows, dtype=torch.float32, device=device)
    token = torch.empty(rows, dtype=torch.int64, device=device)
    bad = torch.empty(rows, dtype=torch.bool, device=device)
    width = split_width(vocab)
    splits = triton.cdiv(vocab, width)
    per_program = splits_per_program(rows, splits)
    if rows:
        work = workspace(device, rows * splits)
        row_partials_kernel[(rows * triton.cdiv(splits, per_program),)](
            logits,
            logits.stride(0),
            id_list(device, forbid),
            len(forbid),
            *floats,
            token,
            bad,
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
            num_warps=WARPS,
        )
    return *floats, token, bad
