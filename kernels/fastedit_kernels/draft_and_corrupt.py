"""Drafts of a model and their corruption: noisy ids, labels and kinds of R rows in one launch.

Reads the logits of the rows that become a draft, once, V elements each, and 33 bytes per row;
writes 22 bytes per row. A draw reads its row once more and one split a third time, from the cache
where the row fits. What becomes of a row is decided from its random words first, so that no other
row is read. The last program to finish a row writes it, the last row of all counts the wrong
drafts.
"""

import torch
import triton
import triton.language as tl

from fastedit_kernels.arrivals import id_list, is_last, workspace
from fastedit_kernels.sampling import draw, unit
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

PURPOSE = tl.constexpr(0)  # keeps the random words of drafts apart from those of other uses
UNLABELLED = tl.constexpr(-100)
KEEP, MASK, EDIT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
RANDOM_EDIT = tl.constexpr(6)


@triton.jit
def row_words(r, example, position, seed, epoch, turn):
    """The four random words of row `r`, which follow from its key alone."""
    e = tl.load(example + r)
    high = (epoch << 16) | ((e >> 32) & 0xFFFF)
    p = tl.load(position + r).to(tl.uint32)
    low = ((turn << 8) | PURPOSE).to(tl.uint32)
    return tl.philox(seed, e.to(tl.uint32), p, high.to(tl.uint32), low)


@triton.jit
def random_other(clean, word, vocab, forbid, n_forbid):
    """A uniform id (int64) of the vocabulary that is neither `clean` nor forbidden, ascending.

    Drawn as a place among those ids, which then moves past each id that is left out.
    """
    place = clean
    allowed = (clean >= 0) & (clean < vocab)
    for k in range(n_forbid):
        f = tl.load(forbid + k)
        place -= (f < clean).to(tl.int64)
        allowed = allowed & (f != clean)
    drawn = (word.to(tl.int64) * (vocab - n_forbid - allowed.to(tl.int32))) >> 32
    drawn += (allowed & (drawn >= place)).to(tl.int64)
    for k in range(n_forbid):
        drawn += (drawn >= tl.load(forbid + k)).to(tl.int64)
    return drawn


@triton.jit(
    do_not_specialize=[
        *("mask_token_id", "seed", "epoch", "turn", "mask_below", "drafted_below", "visible_below"),
        *("region", "n_forbid", "rows", "splits", "per_program"),
    ]
)
def draft_and_corrupt_kernel(
    logits,
    stride,
    xt,
    x0,
    eligible,
    example,
    position,
    seed: tl.int64,
    epoch: tl.int64,
    turn: tl.int64,
    mask_token_id: tl.int64,
    mask_below: tl.int64,
    drafted_below: tl.int64,
    visible_below: tl.int64,
    region,
    temperature,
    forbid,
    n_forbid,
    z_out,
    labels_out,
    kinds_out,
    p_draft_out,
    n_err_out,
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
    SAMPLING: tl.constexpr,
):
    groups = tl.cdiv(splits, per_program)
    r = tl.program_id(0) // groups
    first = tl.program_id(0) % groups * per_program
    old = tl.load(xt + r)
    may = tl.load(eligible + r) != 0

    _, mask_word, random_word, _ = row_words(r, example, position, seed, epoch, turn)
    was_mask = may & (old == mask_token_id)
    stays = was_mask & (mask_word.to(tl.int64) < mask_below)
    below = tl.where(was_mask, drafted_below, visible_below)
    random = may & (stays == 0) & (random_word.to(tl.int64) < below)
    read = was_mask & ((stays | random) == 0)

    row = logits + r.to(tl.int64) * stride
    spot = r * splits
    spots = rows * splits
    wrong = tokens + spots  # per row, for the count
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
    if is_last(counters + r, groups):
        clean = tl.load(x0 + r)
        # Once more, rather than in registers while the logits pass through them.
        draft_word, _, _, id_word = row_words(r, example, position, seed, epoch, turn)
        if read:
            top, total, _weighted, best, token, bad = merge_splits(
                spot, splits, LOG2E, numbers, tokens, spots, SPLITS, False
            )
            exists = best > -float("inf")
            prob = share(best, top, total, LOG2E)
            if SAMPLING:
                u = unit(draft_word)
                if exists:
                    token, prob = draw(
                        row,
                        vocab,
                        best,
                        temperature,
                        0,
                        1.0,
                        u,
                        forbid,
                        n_forbid,
                        splits,
                        SPLIT,
                        SPLITS,
                        TILE,
                    )
            tl.store(z_out + r, tl.where(exists, token.to(tl.int64), old))
            tl.store(kinds_out + r, tl.where(exists, EDIT, MASK))
            tl.store(p_draft_out + r, tl.where(exists, prob, 0.0))
            tl.store(bad_out + r, (bad != 0) | (exists == 0))
            tl.store(wrong + r, (exists & (token != clean)).to(tl.int32))
        else:
            other = random_other(clean, id_word, vocab, forbid, n_forbid)
            tl.store(z_out + r, tl.where(random, other, old))
            tl.store(kinds_out + r, tl.where(random, RANDOM_EDIT, tl.where(stays, MASK, KEEP)))
            tl.store(p_draft_out + r, 0.0)
            tl.store(bad_out + r, False)
            tl.store(wrong + r, 0)
        labelled = was_mask | (random & (region >= 1)) | (may & (region == 2))
        tl.store(labels_out + r, tl.where(labelled, clean, UNLABELLED))
        if is_last(counters + rows, rows):
            errors = tl.zeros([TILE], tl.int32)
            for at in range(0, rows, TILE):
                k = at + tl.arange(0, TILE)
                errors += tl.load(wrong + k, mask=k < rows, other=0, cache_modifier=".cg")
            tl.store(n_err_out, tl.sum(errors, 0).to(tl.int64))


def draft_and_corrupt(
    logits: torch.Tensor,
    xt: torch.Tensor,
    x0: torch.Tensor,
    eligible: torch.Tensor,
    example: torch.Tensor,
    position: torch.Tensor,
    *,
    seed: int,
    epoch: int,
    turn: int,
    mask_token_id: int,
    forbid: tuple[int, ...],
    temperature: float,
    mask_below: int,
    drafted_below: int,
    visible_below: int,
    region: int,
) -> tuple[torch.Tensor, ...]:
    """(z, labels, kinds, p_draft, n_err, bad) of logits [R, V] with a contiguous last dimension.

    xt, x0, example, position [R] int64, eligible [R] bool, contiguous. A word of 32 bits below
    `mask_below` leaves a mask, one below `drafted_below` or `visible_below` makes a random id.
    region 0: masks have labels, 1: random ids too, 2: all eligible rows. temperature 0: argmax.
    """
    rows, vocab = logits.shape
    device = logits.device
    z, labels = torch.empty(2, rows, dtype=torch.int64, device=device)
    kinds = torch.empty(rows, dtype=torch.uint8, device=device)
    p_draft = torch.empty(rows, dtype=torch.float32, device=device)
    bad = torch.empty(rows, dtype=torch.bool, device=device)
    if rows == 0:
        n_err = torch.zeros((), dtype=torch.int64, device=device)
        return z, labels, kinds, p_draft, n_err, bad
    n_err = torch.empty((), dtype=torch.int64, device=device)
    width = split_width(vocab)
    splits = triton.cdiv(vocab, width)
    per_program = splits_per_program(rows, splits)
    work = workspace(device, rows * splits)
    draft_and_corrupt_kernel[(rows * triton.cdiv(splits, per_program),)](
        logits,
        logits.stride(0),
        xt,
        x0,
        eligible,
        example,
        position,
        seed,
        epoch,
        turn,
        mask_token_id,
        mask_below,
        drafted_below,
        visible_below,
        region,
        temperature,
        id_list(device, forbid),
        len(forbid),
        z,
        labels,
        kinds,
        p_draft,
        n_err,
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
        SAMPLING=temperature > 0.0,
        num_warps=WARPS,
    )
    return z, labels, kinds, p_draft, n_err, bad
