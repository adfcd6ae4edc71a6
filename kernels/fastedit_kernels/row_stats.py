"""Row statistics: best token, its probability, that of the current token, log-sum-exp; on request
the entropy, the best few tokens and a drawn one.

Reads the logits once, R * V elements, and writes 29 bytes per row, 4 more with the entropy, 12 more
for each of the best tokens and for a draw; between the two, 16 bytes per split of a row pass
through the workspace, 4 more with the entropy and 8 for each of the best tokens. One launch: the
last program to finish a row merges its splits, and draws. What is not asked for is not compiled.
With `only` the logits of rows that hold another id are not read.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from fastedit_kernels.arrivals import id_list, is_last, workspace
from fastedit_kernels.sampling import draw, uniform
from fastedit_kernels.splits import (
    LARGEST,
    LOG2E,
    NEVER,
    TILE,
    WARPS,
    load_ranks,
    load_tile,
    merge_splits,
    reduce_splits,
    share,
    split_width,
    splits_per_program,
)


@triton.jit
def write_ranks(
    x,
    ids,
    top,
    total,
    scale,
    top_tokens_out,
    top_probs_out,
    TOP_K: tl.constexpr,
):
    """The best TOP_K of the logits `x` [SPLITS, WIDTH], the lowest of `ids` on ties."""
    for n in tl.static_range(TOP_K):
        best = tl.max(tl.max(x, 1), 0)
        token = tl.min(tl.min(tl.where(x == best, ids, NEVER), 1), 0)
        exists = best > -float("inf")
        tl.store(top_tokens_out + n, tl.where(exists, token, -1).to(tl.int64))
        tl.store(top_probs_out + n, share(best, top, total, scale))
        x = tl.where(ids == token, -float("inf"), x)


@triton.jit(
    do_not_specialize=[
        *("length", "purpose", "only", "n_forbid", "rows", "splits", "per_program"),
    ]
)
def row_stats_kernel(
    logits,
    stride,
    length,
    gap,
    current,
    temperature,
    forbid,
    n_forbid,
    seed,
    position,
    forward,
    draw_top_k,
    top_p,
    purpose,
    only,
    token_out,
    prob_out,
    prob_current_out,
    lse_out,
    entropy_out,
    bad_out,
    top_tokens_out,
    top_probs_out,
    sample_out,
    sample_prob_out,
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
    PER_ROW: tl.constexpr,
    GAPS: tl.constexpr,
    TOP_K: tl.constexpr,
    SAMPLING: tl.constexpr,
    ONLY: tl.constexpr,
):
    groups = tl.cdiv(splits, per_program)
    r = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * per_program
    row = logits + r.to(tl.int64) * stride
    if GAPS:  # between the rows of one block and those of the next
        row += (r // length).to(tl.int64) * gap
    if PER_ROW:
        heat = tl.load(temperature + r)
        heat = tl.where(heat > 1e-30, tl.minimum(heat, 1e30), 1e-30)  # NaN is not above
    else:
        heat = temperature
    scale = LOG2E / heat
    read = True
    if ONLY:
        held = tl.load(current + r)
        read = held == only
        if (held != only) & (first == 0):  # nothing to say of this row, and nobody else says it
            tl.store(token_out + r, held)
            tl.store(prob_out + r, 0.0)
            tl.store(prob_current_out + r, 0.0)
            tl.store(lse_out + r, -float("inf"))
            tl.store(bad_out + r, False)
            if ENTROPY:
                tl.store(entropy_out + r, 0.0)
            if SAMPLING:
                tl.store(sample_out + r, held)
                tl.store(sample_prob_out + r, 0.0)
            for n in tl.static_range(TOP_K):
                tl.store(top_tokens_out + r * TOP_K + n, -1)
                tl.store(top_probs_out + r * TOP_K + n, 0.0)
    if read:
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
            TOP_K,
        )
        if is_last(counters + r, groups):
            top, total, weighted, best, token, bad = merge_splits(
                spot, splits, scale, numbers, tokens, spots, SPLITS, ENTROPY
            )
            exists = best > -float("inf")
            now = tl.load(current + r)
            known = (now >= 0) & (now < vocab)
            x, _ = load_tile(row, now, known)
            prob = share(best, top, total, scale)
            tl.store(token_out + r, tl.where(exists, token.to(tl.int64), now))
            tl.store(prob_out + r, prob)
            tl.store(prob_current_out + r, share(x, top, total, scale))
            tl.store(bad_out + r, (bad != 0) | (best == -float("inf")))
            if SAMPLING:  # first, while few registers are held
                drawn, chance = now, 0.0
                if exists:
                    place, turn = tl.load(position + r), tl.load(forward + r)
                    u = uniform(tl.load(seed + r), place, turn, purpose.to(tl.uint32))
                    token, chance = draw(
                        row,
                        vocab,
                        best,
                        heat,
                        tl.load(draw_top_k + r),
                        tl.load(top_p + r),
                        u,
                        forbid,
                        n_forbid,
                        splits,
                        SPLIT,
                        SPLITS,
                        TILE,
                    )
                    drawn = token.to(tl.int64)
                tl.store(sample_out + r, drawn)
                tl.store(sample_prob_out + r, chance)
            some = top > -float("inf")
            scaled = tl.minimum(tl.maximum(tl.div_rn(top, heat), -LARGEST), LARGEST)
            lse = scaled + tl.log(total)
            tl.store(lse_out + r, tl.where(some, lse, top))
            if ENTROPY:
                # The logits' distances were summed in their own unit.
                h = tl.log(total) - weighted / total / heat
                tl.store(entropy_out + r, tl.where(some, tl.maximum(h, 0.0), 0.0))
            if TOP_K > 0:
                ranked, ids = load_ranks(spot, splits, numbers, tokens, spots, SPLITS, TOP_K)
                tokens_here = top_tokens_out + r * TOP_K
                probs_here = top_probs_out + r * TOP_K
                write_ranks(ranked, ids, top, total, scale, tokens_here, probs_here, TOP_K)


def row_stats(
    logits: torch.Tensor,
    current: torch.Tensor,
    forbid: tuple[int, ...],
    temperature: float | torch.Tensor,
    entropy: bool,
    top_k: int,
    draws: Sequence[torch.Tensor] | None,
    purpose: int,
    only: int | None,
) -> tuple[torch.Tensor | None, ...]:
    """(token, prob, prob_current, lse, entropy, bad, top_tokens, top_probs, sample, sample_prob).

    logits [R, V], or [B, L, V] of R rows, fp32, bf16 or fp16 with a contiguous last dimension;
    current [R] int64; temperature > 0, or [R] fp32; draws: seed, position, forward, top_k [R]
    int64, top_p [R] fp32; only: the id that a row has to hold to be read. Everything [R] is
    contiguous. None for what was not asked for.
    """
    rows, (length, vocab) = current.shape[0], logits.shape[-2:]
    gap = logits.stride(0) - length * logits.stride(1) if logits.ndim == 3 else 0
    device = logits.device
    token = torch.empty(rows, dtype=torch.int64, device=device)
    prob, prob_current, lse, h = torch.empty(4, rows, dtype=torch.float32, device=device)
    bad = torch.empty(rows, dtype=torch.bool, device=device)
    top_tokens = top_probs = sample = sample_prob = None
    if top_k:
        top_tokens = torch.empty(rows, top_k, dtype=torch.int64, device=device)
        top_probs = torch.empty(rows, top_k, dtype=torch.float32, device=device)
    if draws is not None:
        sample, sample_prob = torch.empty_like(token), torch.empty_like(prob)
    width = split_width(vocab)
    splits = triton.cdiv(vocab, width)
    per_program = splits_per_program(rows, splits)
    if rows:
        # Of the planes for the best logits and ids, each part of the workspace has room for two.
        work = workspace(device, rows * splits * (1 + triton.cdiv(top_k, 2)))
        row_stats_kernel[(rows * triton.cdiv(splits, per_program),)](
            logits,
            logits.stride(-2),
            length,
            gap,
            current,
            temperature,
            id_list(device, forbid),
            len(forbid),
            *(draws or [None] * 5),
            purpose,
            0 if only is None else only,
            token,
            prob,
            prob_current,
            lse,
            h,
            bad,
            top_tokens,
            top_probs,
            sample,
            sample_prob,
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
            PER_ROW=isinstance(temperature, torch.Tensor),
            GAPS=gap != 0,
            TOP_K=top_k,
            SAMPLING=draws is not None,
            ONLY=only is not None,
            num_warps=WARPS,
        )
    entropies = h if entropy else None
    best = (token, prob, prob_current, lse, entropies, bad)
    return *best, top_tokens, top_probs, sample, sample_prob
