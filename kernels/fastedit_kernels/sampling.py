"""One draw from a row of logits: inverse CDF in vocabulary order, without sorting or copying it.

One program draws for a row once its best allowed logit is known. It reads the row once more for the
mass of every split and a split for the place within. Filters cost further reads, from the cache
where the row fits: top-k and top-p each search their cutoff among the 2^32 ordered values of fp32,
one read of the row per bit.
"""

import triton
import triton.language as tl

from fastedit_kernels.splits import LARGEST, LOG2E, NEVER, ban, load_tile

DECODE = tl.constexpr(3)  # the purpose that keeps the random words of decoding apart from others


@triton.jit
def unit(word):
    """fp32 in [0, 1) from the upper 24 bits of a random word."""
    return (word >> 8).to(tl.float32) * (2.0**-24)


@triton.jit
def uniform(seed, position, forward, purpose):
    """fp32 in [0, 1) from 24 bits of the Philox4x32-10 word of this key."""
    word, _, _, _ = tl.philox(seed, 0, position.to(tl.uint32), forward.to(tl.uint32), purpose)
    return unit(word)


@triton.jit
def rank_of(x):
    """int32 in the order of the fp32 numbers `x`; both zeros are one."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def number_of(rank):
    """The inverse of `rank_of`."""
    return (rank ^ ((rank >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def load_allowed(row, cols, inside, forbid, n_forbid):
    x, _ = load_tile(row, cols, inside)
    return ban(x, cols, forbid, n_forbid)


@triton.jit
def above(row, vocab, best, scale, rank, forbid, n_forbid, WIDE: tl.constexpr):
    """(number, mass) of the allowed logits that rank above `rank`."""
    number = tl.zeros([WIDE], tl.int32)
    mass = tl.zeros([WIDE], tl.float32)
    for start in range(0, vocab, WIDE):
        cols = start + tl.arange(0, WIDE)
        x = load_allowed(row, cols, cols < vocab, forbid, n_forbid)
        higher = rank_of(x) > rank
        number += higher.to(tl.int32)
        mass += tl.where(higher, tl.exp2((x - best) * scale), 0.0)
    return tl.sum(number, 0), tl.sum(mass, 0)


@triton.jit
def kth_rank(row, vocab, best, k, forbid, n_forbid, WIDE: tl.constexpr):
    """Rank of the k-th largest allowed logit: the lowest that fewer than k logits rank above."""
    low = rank_of(-float("inf") + best * 0.0).to(tl.int64)
    high = rank_of(best).to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        number, _ = above(row, vocab, best, 1.0, middle.to(tl.int32), forbid, n_forbid, WIDE)
        if number < k:
            high = middle
        else:
            low = middle + 1
    return low.to(tl.int32)


@triton.jit
def nucleus_rank(row, vocab, best, scale, low, limit, forbid, n_forbid, WIDE: tl.constexpr):
    """The lowest rank, from `low` up, above which lies at most the mass `limit`."""
    low = low.to(tl.int64)
    high = rank_of(best).to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        _, mass = above(row, vocab, best, scale, middle.to(tl.int32), forbid, n_forbid, WIDE)
        if mass <= limit:
            high = middle
        else:
            low = middle + 1
    return low.to(tl.int32)


@triton.jit
def draw(
    row,
    vocab,
    best,
    temperature,
    top_k,
    top_p,
    u,
    forbid,
    n_forbid,
    splits,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
):
    """(token, its probability after all filters); `best` is the largest allowed logit.

    What is kept: all that ranks above `cut`, and the first `ties` of those at it.
    """
    WIDE: tl.constexpr = 4 * TILE
    scale = tl.minimum((1.0 / temperature) * LOG2E, LARGEST)  # times 0 must stay 0
    cut = rank_of(-float("inf") + best * 0.0)
    ties = NEVER
    if (top_k > 0) & (top_k < vocab):
        cut = kth_rank(row, vocab, best, top_k, forbid, n_forbid, WIDE)
    if top_p < 1.0:
        _, mass = above(row, vocab, best, scale, cut - 1, forbid, n_forbid, WIDE)
        limit = tl.maximum(top_p, 0.0) * mass
        cut = nucleus_rank(row, vocab, best, scale, cut, limit, forbid, n_forbid, WIDE)
        _, mass = above(row, vocab, best, scale, cut, forbid, n_forbid, WIDE)
        each = tl.exp2((number_of(cut) - best) * scale)
        # A tie stays while the mass before it, that of the earlier ties included, is in the limit.
        ties = tl.minimum((limit - mass) / each, 2.0**30).to(tl.int32) + 1

    # The mass of every split, and how many ties lie before it.
    lane = tl.arange(0, TILE)
    k = tl.arange(0, SPLITS)
    masses = tl.zeros([SPLITS], tl.float32)
    equals = tl.zeros([SPLITS], tl.int32)
    for s in range(splits):
        mass = tl.zeros([TILE], tl.float32)
        equal = tl.zeros([TILE], tl.int32)
        for at in range(0, SPLIT, TILE):
            cols = s * SPLIT + at + lane
            inside = (at + lane < SPLIT) & (cols < vocab)
            x = load_allowed(row, cols, inside, forbid, n_forbid)
            rank = rank_of(x)
            mass += tl.where(rank > cut, tl.exp2((x - best) * scale), 0.0)
            equal += (rank == cut).to(tl.int32)
        masses = tl.where(k == s, tl.sum(mass, 0), masses)
        equals = tl.where(k == s, tl.sum(equal, 0), equals)
    each = tl.exp2((number_of(cut) - best) * scale)
    before = tl.cumsum(equals, 0) - equals
    kept = tl.minimum(tl.maximum(ties - before, 0), equals)
    masses += kept.to(tl.float32) * each
    sums = tl.cumsum(masses, 0)
    total = tl.max(sums, 0)
    target = u * total

    # The split in which the sum passes the target, or the last with any mass: rounding may hide it.
    passed = tl.min(tl.where((sums > target) & (masses > 0.0), k, SPLITS), 0)
    last = tl.max(tl.where(masses > 0.0, k, 0), 0)
    s = tl.where(passed < SPLITS, passed, last)
    running = tl.max(tl.where(k < s, sums, 0.0), 0)
    seen = tl.max(tl.where(k == s, before, 0), 0)
    token = NEVER
    fallback = 0
    for at in range(0, SPLIT, TILE):
        cols = s * SPLIT + at + lane
        inside = (at + lane < SPLIT) & (cols < vocab)
        x = load_allowed(row, cols, inside, forbid, n_forbid)
        rank = rank_of(x)
        equal = (rank == cut).to(tl.int32)
        tie = (equal > 0) & (seen + tl.cumsum(equal, 0) <= ties)
        mass = tl.where((rank > cut) | tie, tl.exp2((x - best) * scale), 0.0)
        hit = (running + tl.cumsum(mass, 0) > target) & (mass > 0.0)
        token = tl.minimum(token, tl.min(tl.where(hit, cols, NEVER), 0))
        fallback = tl.maximum(fallback, tl.max(tl.where(mass > 0.0, cols, 0), 0))
        running += tl.sum(mass, 0)
        seen += tl.sum(equal, 0)
    token = tl.where(token < NEVER, token, fallback)
    x, _ = load_tile(row, token, token >= 0)
    return token, tl.div_rn(tl.exp2((x - best) * scale), total)
