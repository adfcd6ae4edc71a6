"""The joint-threshold decision: one launch reads the logits of B blocks and writes what changes.

Reads the logits of the rows that may change, once, R * V elements at most, and writes a few bytes
per row and block. The last program to finish a row merges its splits; the last row of a block to be
finished decides the block: commits, forced commits, edits, counters, flags. Rows that cannot change
are not read: protected ones, those of done blocks, and unmasked ones while editing is off.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from fastedit_kernels.arrivals import id_list, is_last, workspace
from fastedit_kernels.sampling import DECODE, draw, uniform
from fastedit_kernels.splits import (
    LOG2E,
    NEVER,
    TILE,
    WARPS,
    merge_splits,
    reduce_splits,
    share,
    split_width,
    splits_per_program,
)


@triton.jit
def force(wanted, prob, place, count):
    """The `count` most confident places among `wanted` [L], lowest place on ties.

    A place is a 64-bit key: the bits of its confidence, which are ordered since it is not negative,
    above its distance from the end.
    """
    key = (prob.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (NEVER - place)
    left = tl.where(wanted, key, -1)
    chosen = place < 0
    for _ in range(count):
        best = tl.max(left, 0)
        chosen |= (left == best) & (best >= 0)
        left = tl.where(left == best, -1, left)
    return chosen


@triton.jit
def decide(
    b,
    ids,
    editable,
    length,
    mask_token_id,
    threshold,
    editing_threshold,
    max_post_steps,
    num_to_transfer,
    post_steps,
    forwards,
    m2t_commits,
    t2t_edits,
    done,
    dirty,
    bad,
    probs,
    coded,
    ids_stride,
    editable_stride,
    PLACES: tl.constexpr,
):
    """The rule on block `b`, whose rows left confidence (-1: no candidate) and token behind."""
    place = tl.arange(0, PLACES)
    real = place < length
    old = tl.load(ids + place * ids_stride, mask=real, other=-1)
    may = tl.load(editable + place * editable_stride, mask=real, other=0) != 0
    tm = tl.load(threshold + b)
    te = tl.load(editing_threshold + b)
    n = tl.load(num_to_transfer + b)
    budget = tl.load(max_post_steps + b)
    post = tl.load(post_steps + b)
    over = tl.load(done + b) != 0

    masked = may & (old == mask_token_id)
    visible = may & (old != mask_token_id)
    had_mask = tl.max(masked.to(tl.int32), 0) > 0
    spent = (post >= budget) & (had_mask == 0)
    active = (over | spent) == 0
    read = (masked | (tl.where(visible, te, float("inf")) < float("inf"))) & active
    prob = tl.load(probs + place, mask=read, other=-1.0, cache_modifier=".cg")
    token = tl.load(coded + place, mask=read, other=0, cache_modifier=".cg")
    broken = token < 0
    token = tl.where(broken, ~token, token).to(tl.int64)

    can = prob >= 0.0
    commit = masked & can & (prob > tm)
    if tl.sum(commit.to(tl.int32), 0) < n:
        able = masked & can
        commit = force(able, prob, place, tl.minimum(n, tl.sum(able.to(tl.int32), 0)))
    change = (commit | (visible & can & (prob > te))) & (token != old)
    tl.store(ids + place * ids_stride, token, mask=change)

    changed = tl.max(change.to(tl.int32), 0) > 0
    mask_left = tl.max((may & (tl.where(change, token, old) == mask_token_id)).to(tl.int32), 0) > 0
    if active:
        post += (had_mask == 0).to(tl.int32)
        tl.store(post_steps + b, post)
        tl.store(forwards + b, tl.load(forwards + b) + 1)
        commits = tl.sum((change & masked).to(tl.int32), 0)
        tl.store(m2t_commits + b, tl.load(m2t_commits + b) + commits)
        edits = tl.sum((change & visible).to(tl.int32), 0)
        tl.store(t2t_edits + b, tl.load(t2t_edits + b) + edits)
        tl.store(dirty + b, changed)
        wrong = tl.max((broken & read).to(tl.int32), 0) > 0
        tl.store(bad + b, (tl.load(bad + b) != 0) | wrong)
    stable = (had_mask | changed) == 0
    ended = (mask_left == 0) & (post >= budget)
    tl.store(done + b, over | spent | stable | ended)


@triton.jit(
    do_not_specialize=["mask_token_id", "n_forbid", "rows", "length", "splits", "per_program"]
)
def joint_threshold_kernel(
    ids,
    ids_block,
    ids_stride,
    logits,
    logits_block,
    logits_stride,
    editable,
    editable_block,
    editable_stride,
    mask_token_id,
    threshold,
    editing_threshold,
    max_post_steps,
    num_to_transfer,
    post_steps,
    forwards,
    m2t_commits,
    t2t_edits,
    done,
    dirty,
    bad,
    temperature,
    top_k,
    top_p,
    seed,
    start,
    forbid,
    n_forbid,
    numbers,
    tokens,
    counters,
    rows,
    length,
    vocab,
    splits,
    per_program,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    PLACES: tl.constexpr,
    SAMPLING: tl.constexpr,
):
    groups = tl.cdiv(splits, per_program)
    r = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * per_program
    b = r // length
    i = r % length
    block_ids = ids + b.to(tl.int64) * ids_block
    block_editable = editable + b.to(tl.int64) * editable_block
    may = tl.load(block_editable + i * editable_stride) != 0
    masked = tl.load(block_ids + i * ids_stride) == mask_token_id
    editing = tl.load(editing_threshold + b) < float("inf")
    # A block is decided after all of its programs have arrived, so these are the old ids for all.
    read = may & (masked | editing) & (tl.load(done + b) == 0)

    row = logits + b.to(tl.int64) * logits_block + i.to(tl.int64) * logits_stride
    spot = r * splits
    spots = rows * splits
    if read:
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
    # Two stages, since a thousand arrivals at one address would queue.
    if is_last(counters + r, groups):
        if read:
            top, total, _, best, token, broken = merge_splits(
                spot, splits, LOG2E, numbers, tokens, spots, SPLITS, False
            )
            exists = best > -float("inf")
            prob = share(best, top, total, LOG2E)
            if SAMPLING:
                heat = tl.load(temperature + b)
                if exists & (heat > 0.0):
                    place = tl.load(start + b) + i
                    u = uniform(tl.load(seed + b), place, tl.load(forwards + b), DECODE)
                    token, prob = draw(
                        row,
                        vocab,
                        best,
                        heat,
                        tl.load(top_k + b),
                        tl.load(top_p + b),
                        u,
                        forbid,
                        n_forbid,
                        splits,
                        SPLIT,
                        SPLITS,
                        TILE,
                    )
            wrong = (broken != 0) | (best == -float("inf"))
            tl.store(numbers + 3 * spots + r, tl.where(exists, prob, -1.0))
            tl.store(tokens + spots + r, tl.where(wrong, ~token, token))
        if is_last(counters + rows + b, length):
            decide(
                b,
                block_ids,
                block_editable,
                length,
                mask_token_id,
                threshold,
                editing_threshold,
                max_post_steps,
                num_to_transfer,
                post_steps,
                forwards,
                m2t_commits,
                t2t_edits,
                done,
                dirty,
                bad,
                numbers + 3 * spots + b * length,
                tokens + spots + b * length,
                ids_stride,
                editable_stride,
                PLACES,
            )


def joint_threshold_step_(
    ids: torch.Tensor,
    logits: torch.Tensor,
    editable: torch.Tensor,
    state: Sequence[torch.Tensor],
    mask_token_id: int,
    threshold: torch.Tensor,
    editing_threshold: torch.Tensor,
    max_post_steps: torch.Tensor,
    num_to_transfer: torch.Tensor,
    forbid: tuple[int, ...],
    sampling: Sequence[torch.Tensor] | None,
) -> None:
    """One step on ids [B, L] and `state`, in place; no allocation after the first, no host sync.

    logits [B, L, V] fp32, bf16 or fp16 with a contiguous last dimension; editable [B, L] bool;
    thresholds [B] fp32, counts [B] int32. state: post_steps, forwards, m2t_commits, t2t_edits
    [B] int32, done, dirty, bad [B] bool. sampling: temperature [B] fp32 (0 = greedy), top_k [B]
    int64, top_p [B] fp32, seed, start [B] int64. Everything [B] is contiguous.
    """
    blocks, length, vocab = logits.shape
    rows = blocks * length
    width = split_width(vocab)
    splits = triton.cdiv(vocab, width)
    per_program = splits_per_program(rows, splits)
    work = workspace(ids.device, rows * splits)
    joint_threshold_kernel[(rows * triton.cdiv(splits, per_program),)](
        ids,
        *ids.stride(),
        logits,
        *logits.stride()[:2],
        editable,
        *editable.stride(),
        mask_token_id,
        threshold,
        editing_threshold,
        max_post_steps,
        num_to_transfer,
        *state,
        *(sampling or [None] * 5),
        id_list(ids.device, forbid),
        len(forbid),
        work.numbers,
        work.tokens,
        work.counters,
        rows,
        length,
        vocab,
        splits,
        per_program,
        SPLIT=width,
        SPLITS=triton.next_power_of_2(splits),
        TILE=TILE,
        PLACES=triton.next_power_of_2(length),
        SAMPLING=sampling is not None,
        num_warps=WARPS,
    )
