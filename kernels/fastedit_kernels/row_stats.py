"""Row statistics: best token, its probability, that of the current token, log-sum-exp, entropy.

Reads the logits once, R * V elements, and writes 29 bytes per row (33 with the entropy); between
the two, 16 or 20 bytes per split of a row pass through the workspace. One launch: the last program
to finish a row merges its splits.
"""

import torch
import triton
import triton.language as tl

from fastedit_kernels.arrivals import id_list, is_last, workspace
from fastedit_kernels.splits import (
    LARGEST,
    LOG2E,
    TILE,
    WARPS,
    load_tile,
    merge_splits,
    reduce_splits,
    share,
    split_width,
    splits_per_program,
)


@triton.jit(do_not_specialize=["n_forbid", "rows", "splits", "per_program"])
def row_stats_kernel(
    logits,
    stride,
    current,
    temperature,
    forbid,
    n_forbid,
    token_out,
    prob_out,
    prob_current_out,
    lse_out,
    entropy_out,
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
    ENTROPY: tl.constexpr,
):
    groups = tl.cdiv(splits, per_program)
    r = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * per_program
    row = logits + r.to(tl.int64) * stride
    scale = LOG2E / temperature
    spot = r * splits
    spots = rows * splits
    reduce_splits(
        row,
        first,
        tl.minimum(first + per_program, splits),
        spot,
        vocab,
        scale,
        forbid,
        n_forbid,
        numbers,
        tokens,
        spots,
        SPLIT,
        TILE,
        ENTROPY,
    )
    if is_last(counters + r, groups):
        top, total, weighted, best, token, bad = merge_splits(
            spot, splits, scale, numbers, tokens, spots, SPLITS, ENTROPY
        )
        exists = best > -float("inf")
        now = tl.load(current + r)
        known = (now >= 0) & (now < vocab)
        x, _ = load_tile(row, now, known)
        tl.store(token_out + r, tl.where(exists, token.to(tl.int64), now))
        tl.store(prob_out + r, share(best, top, total, scale))
        tl.store(prob_current_out + r, share(x, top, total, scale))
        tl.store(bad_out + r, (bad != 0) | (best == -float("inf")))
        some = top > -float("inf")
        scaled = tl.minimum(tl.maximum(tl.div_rn(top, temperature), -LARGEST), LARGEST)
        lse = scaled + tl.log(total)
        tl.store(lse_out + r, tl.where(some, lse, top))
        if ENTROPY:
            # The logits' distances were summed in their own unit.
            h = tl.log(total) - weighted / total / temperature
            tl.store(entropy_out + r, tl.where(some, tl.maximum(h, 0.0), 0.0))


def row_stats(
    logits: torch.Tensor,
    current: torch.Tensor,
    forbid: tuple[int, ...],
    temperature: float,
    entropy: bool,
) -> tuple[torch.Tensor, ...]:
    """(token, prob, prob_current, lse, entropy or None, bad) of logits [R, V].

    logits fp32, bf16 or fp16 with a contiguous last dimension; current [R] int64; temperature > 0.
    """
    rows, vocab = logits.shape
    device = logits.device
    token = torch.empty(rows, dtype=torch.int64, device=device)
    floats = torch.empty(4, rows, dtype=torch.float32, device=device)
    bad = torch.empty(rows, dtype=torch.bool, device=device)
    width = split_width(vocab)
    splits = triton.cdiv(vocab, width)
    per_program = splits_per_program(rows, splits)
    if rows:
        work = workspace(device, rows * splits)
        row_stats_kernel[(rows * triton.cdiv(splits, per_program),)](
            logits,
            logits.stride(0),
            current.contiguous(),
            temperature,
            id_list(device, forbid),
            len(forbid),
            token,
            *floats,
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
            ENTROPY=entropy,
            num_warps=WARPS,
        )
    prob, prob_current, lse, h = floats
    return token, prob, prob_current, lse, h if entropy else None, bad
