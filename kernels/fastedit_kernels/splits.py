"""How a row of logits is cut into splits, what is kept of each, and how they are merged.

A split is reduced by one program, in registers, to 16 bytes: the best logit, the sum of
exponentials below it, the best allowed logit and its token (20 bytes with the entropy's sum). Split
and tile widths follow from the vocabulary alone, so no result depends on the number of rows.

| logit | read as | row is bad |
|---|---|---|
| NaN | -inf | yes |
| +inf | the largest finite fp32 | yes |
"""

import torch
import triton
import triton.language as tl

TILE = 1024  # 8 logits for each of 128 threads: one 16-byte load of bf16, two of fp32
WARPS = 2 if torch.version.hip else 4  # AMD's data-centre GPUs have 64 threads in a warp
WIDEST = 8192  # 64 logits per thread in registers

LOG2E = tl.constexpr(1.4426950408889634)
LARGEST = tl.constexpr(3.4028234663852886e38)
NEVER = tl.constexpr(2**31 - 1)


def split_width(vocab: int) -> int:
    """Columns per split. 32 equal ones where tiles fill them well and 16-byte loads stay whole."""
    if vocab % 512 == 0 and TILE <= vocab // 32 <= WIDEST:
        return vocab // 32
    return min(WIDEST, triton.cdiv(vocab, TILE) * TILE)


def splits_per_program(rows: int, splits: int) -> int:
    """Consecutive splits that one program reduces: enough programs for a large GPU, no more."""
    return max(1, min(splits, rows * splits // 1024))


@triton.jit
def load_tile(row, cols, inside):
    """fp32 logits [TILE] of `row` with no NaN and no +inf left, and which of them were either."""
    x = tl.load(row + cols, mask=inside, other=-float("inf")).to(tl.float32)
    broken = ~(x < float("inf"))
    return tl.where(x == x, tl.minimum(x, LARGEST), -float("inf")), broken


@triton.jit
def ban(x, cols, forbid, n_forbid, step=1):
    """`x` [TILE] with -inf at the forbidden ids, which lie `step` apart."""
    for k in range(n_forbid):
        x = tl.where(cols == tl.load(forbid + k * step), -float("inf"), x)
    return x


@triton.jit
def rank(
    tiles,
    start,
    lane,
    forbid,
    n_forbid,
    numbers,
    tokens,
    spot,
    spots,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
    TOP_K: tl.constexpr,
):
    """Store the TOP_K best allowed logits of `tiles`, and their ids, in their planes at `spot`.

    Each is the best of those that come after the one before, by logit and then by id; a forbidden
    one is passed over. -inf fills up where there are no more.
    """
    found = 0
    x = tl.full([], LARGEST, tl.float32)
    at = -1  # its column in the split
    while found < TOP_K:
        peak = tl.full([TILE], -float("inf"), tl.float32)
        tile = tl.zeros([TILE], tl.int32)
        for t in tl.static_range(TILES):
            later = (tiles[t] < x) | ((tiles[t] == x) & (lane > at - t * TILE))
            higher = later & (tiles[t] > peak)
            tile = tl.where(higher, t, tile)
            peak = tl.where(higher, tiles[t], peak)
        x = tl.max(peak, 0)
        at = tl.min(tl.where(peak == x, tile * TILE + lane, NEVER), 0)
        allowed = 1
        for k in range(n_forbid):
            allowed = tl.where(tl.load(forbid + k) == start + at, 0, allowed)
        if (allowed > 0) | (x == -float("inf")):
            tl.store(numbers + (4 + found) * spots + spot, x)
            tl.store(tokens + (1 + found) * spots + spot, start + at)
            found += 1


@triton.jit
def reduce_split(
    row,
    start,
    vocab,
    scale,
    forbid,
    n_forbid,
    numbers,
    tokens,
    spot,
    spots,
    SPLIT: tl.constexpr,
    TILE: tl.constexpr,
    ENTROPY: tl.constexpr,
    TOP_K: tl.constexpr,
    excluded,
    n_excluded,
    step,
    EXCLUDED: tl.constexpr,
):
    """(top, total, weighted, best, token, bad) of columns [start, start + SPLIT) of one row.

    top is the largest logit, total = sum exp2((x - top) * scale), weighted the same sum weighted
    with (x - top); best and token are the largest allowed logit and the lowest id that has it.
    With TOP_K, that many of the best go to the workspace.
    """
    TILES: tl.constexpr = (SPLIT + TILE - 1) // TILE
    lane = tl.arange(0, TILE)
    peak = tl.full([TILE], -float("inf"), tl.float32)
    tile = tl.zeros([TILE], tl.int32)
    broken = tl.zeros([TILE], tl.int32)
    tiles = ()  # stay in registers: the split is read once
    for t in tl.static_range(TILES):
        cols = start + t * TILE + lane
        x, wrong = load_tile(row, cols, (t * TILE + lane < SPLIT) & (cols < vocab))
        broken |= wrong.to(tl.int32)
        tile = tl.where(x > peak, t, tile)
        peak = tl.maximum(peak, x)
        tiles += (x,)
    top = tl.max(peak, 0)

    base = tl.where(top > -float("inf"), top, 0.0)  # (-inf) - (-inf) is NaN
    total = tl.zeros([TILE], tl.float32)
    weighted = tl.zeros([TILE], tl.float32)
    for t in tl.static_range(TILES):
        e = tl.exp2((tiles[t] - base) * scale)
        total += e
        if ENTROPY:
            weighted += tl.where(e > 0.0, (tiles[t] - base) * e, 0.0)

    if TOP_K > 0:
        rank(tiles, start, lane, forbid, n_forbid, numbers, tokens, spot, spots, TILES, TILE, TOP_K)

    # Few splits hold a forbidden id; those are read again, from the cache.
    banned = False
    for k in range(n_forbid):
        f = tl.load(forbid + k)
        banned |= (f >= start) & (f < start + SPLIT)
    if EXCLUDED:
        for k in range(n_excluded):
            f = tl.load(excluded + k * step)
            banned |= (f >= start) & (f < start + SPLIT)
    if banned:
        peak = tl.full([TILE], -float("inf"), tl.float32)
        for again in range(tl.cdiv(tl.minimum(vocab - start, SPLIT), TILE)):
            cols = start + again * TILE + lane
            inside = (again * TILE + lane < SPLIT) & (cols < vocab)
            x, _ = load_tile(row, cols, inside)
            x = ban(x, cols, forbid, n_forbid)
            if EXCLUDED:
                x = ban(x, cols, excluded, n_excluded, step)
            tile = tl.where(x > peak, again, tile)
            peak = tl.maximum(peak, x)
    best = tl.max(peak, 0)
    token = start + tl.min(tl.where(peak == best, tile * TILE + lane, NEVER), 0)
    bad = tl.max(broken, 0)
    return top, tl.sum(total, 0), tl.sum(weighted, 0), best, token, bad


@triton.jit
def reduce_splits(
    row,
    first,
    last,
    spot,
    vocab,
    scale,
    forbid,
    n_forbid,
    numbers,
    tokens,
    spots,
    SPLIT: tl.constexpr,
    TILE: tl.constexpr,
    ENTROPY: tl.constexpr,
    TOP_K: tl.constexpr = 0,
    excluded=None,
    n_excluded=0,
    step=1,
    EXCLUDED: tl.constexpr = False,
):
    """Reduce splits [first, last) of one row; `spot` is the place of its split 0 in the workspace.

    numbers holds one plane of `spots` fp32 each for top, total, best and weighted, and then TOP_K
    for the best allowed logits; tokens one for the best token, and then TOP_K for theirs.

    With EXCLUDED, the best token is none of `n_excluded` ids from `excluded` on, `step` apart,
    either.
    """
    for k in range(first, last):
        top, total, weighted, best, token, bad = reduce_split(
            row,
            k * SPLIT,
            vocab,
            scale,
            forbid,
            n_forbid,
            numbers,
            tokens,
            spot + k,
            spots,
            SPLIT,
            TILE,
            ENTROPY,
            TOP_K,
            excluded,
            n_excluded,
            step,
            EXCLUDED,
        )
        here = numbers + spot + k
        tl.store(here, top)
        tl.store(here + spots, total)
        tl.store(here + 2 * spots, best)
        if ENTROPY:
            tl.store(here + 3 * spots, weighted)
        tl.store(tokens + spot + k, tl.where(bad != 0, ~token, token))  # the sign carries the flag


@triton.jit
def merge_splits(
    spot, splits, scale, numbers, tokens, spots, SPLITS: tl.constexpr, ENTROPY: tl.constexpr
):
    """(top, total, weighted, best, token, bad) of a whole row from what its splits left behind.

    SPLITS is `splits`, rounded up to a power of two. Read past the first-level cache, which may
    hold what stood there before.
    """
    k = tl.arange(0, SPLITS)
    here = numbers + spot + k
    low = -float("inf")
    tops = tl.load(here, mask=k < splits, other=low, cache_modifier=".cg")
    totals = tl.load(here + spots, mask=k < splits, other=0.0, cache_modifier=".cg")
    bests = tl.load(here + 2 * spots, mask=k < splits, other=low, cache_modifier=".cg")
    coded = tl.load(tokens + spot + k, mask=k < splits, other=0, cache_modifier=".cg")

    top = tl.max(tops, 0)
    base = tl.where(top > low, top, 0.0)
    shrink = tl.exp2((tops - base) * scale)  # 0 for a split of -inf only
    total = tl.sum(totals * shrink, 0)
    weighted = 0.0
    if ENTROPY:
        sums = tl.load(here + 3 * spots, mask=k < splits, other=0.0, cache_modifier=".cg")
        moved = sums + tl.where(shrink > 0.0, tops - base, 0.0) * totals
        weighted = tl.sum(moved * shrink, 0)
    best = tl.max(bests, 0)
    token = tl.min(tl.where(bests == best, tl.where(coded < 0, ~coded, coded), NEVER), 0)
    bad = tl.max((coded < 0).to(tl.int32), 0)
    return top, total, weighted, best, token, bad


@triton.jit
def load_ranks(spot, splits, numbers, tokens, spots, SPLITS: tl.constexpr, TOP_K: tl.constexpr):
    """The best allowed logits of a row's splits and their ids, [SPLITS, WIDTH] each.

    WIDTH is TOP_K, rounded up to a power of two.
    """
    WIDTH: tl.constexpr = triton.next_power_of_2(TOP_K)
    k = tl.arange(0, SPLITS)[:, None]
    i = tl.arange(0, WIDTH)[None, :]
    real = (k < splits) & (i < TOP_K)
    here = spot + k + i * spots
    low = -float("inf")
    x = tl.load(numbers + 4 * spots + here, mask=real, other=low, cache_modifier=".cg")
    ids = tl.load(tokens + spots + here, mask=real, other=NEVER, cache_modifier=".cg")
    return x, ids


@triton.jit
def share(x, top, total, scale):
    """Softmax probability of logit `x`, 0 where it is -inf. Division rounds as IEEE demands."""
    p = tl.div_rn(tl.exp2((x - tl.where(top > -float("inf"), top, 0.0)) * scale), total)
    return tl.where(x > -float("inf"), p, 0.0)
