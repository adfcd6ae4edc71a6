"""The contract of `ops.draft_and_corrupt` once more: Python integers, float64 NumPy, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracle import row_stats

LOW = 2**32 - 1


def philox(key: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x32-10 as its paper gives it (Salmon et al., SC 2011)."""
    k, x = [key & LOW, key >> 32 & LOW], list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [b >> 32 ^ x[1] ^ k[0], b & LOW, a >> 32 ^ x[3] ^ k[1], a & LOW]
        k = [(k[0] + 0x9E3779B9) & LOW, (k[1] + 0xBB67AE85) & LOW]
    return x


def words(seed: int, epoch: int, example: int, position: int, turn: int) -> list[int]:
    """Of one row; purpose 0."""
    high = epoch << 16 | example >> 32 & 0xFFFF
    return philox(seed, (example & LOW, position & LOW, high, turn << 8))


@dataclass
class Outcome:
    z: int
    label: int
    kind: int
    p_draft: float = 0.0
    error: bool = False
    bad: bool = False
    distance: float = 0.0  # of the drafted logit below the best, for tolerances
    certain: bool = True  # False: a draw within 4 ulp of a boundary


def row(logits: np.ndarray, xt: int, x0: int, eligible: bool, word: list[int], options) -> Outcome:
    """`logits` [V]: the stored values, widened to float64."""
    mask, vocab = options.mask_token_id, len(logits)
    forbid = {*options.forbid, mask} & set(range(vocab))
    was_mask = eligible and xt == mask
    stays = was_mask and word[1] < options.keep_mask * 2**32
    scope = {"drafted": was_mask, "visible": not was_mask, "both": True}[options.random_scope]
    random = eligible and not stays and scope and word[2] < options.p_random * 2**32
    supervised = {
        "response": eligible,
        "formerly_masked": was_mask,
        "formerly_masked+random": was_mask or random,
    }[options.loss_region]
    out = Outcome(xt, x0 if supervised else -100, int(was_mask))
    if random:
        others = [i for i in range(vocab) if i not in forbid and i != x0]
        out.z, out.kind = others[word[3] * len(others) >> 32], 6
    elif was_mask and not stays:
        stats = row_stats(logits, xt, sorted(forbid))
        out.bad = stats.bad
        if not stats.exists:
            return out
        token, p = stats.token, stats.prob
        out.distance = stats.distance[token]
        if options.draft_mode == "sample":
            z = np.where(np.isnan(logits), -np.inf, np.minimum(logits, np.finfo(np.float32).max))
            z[sorted(forbid)] = -np.inf
            z = (z - z.max()) / float(np.float32(options.temperature))
            sums = np.cumsum(np.exp(z))
            u = (word[0] >> 8) * 2.0**-24
            token = int(np.argmax(sums / sums[-1] > u))
            p = float(np.exp(z[token]) / sums[-1])
            out.distance = -z[token]
            inner = sums[:-1][(sums[:-1] > 0) & (sums[:-1] < sums[-1])] / sums[-1]
            out.certain = bool((abs(inner - u) > 4 * np.spacing(np.float32(1))).all())
        out.z, out.kind, out.p_draft, out.error = token, 2, p, token != x0
    return out
