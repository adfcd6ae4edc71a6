"""The decoding loop of one request once more, in plain Python and without a cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Decoded:
    sequence: list[int]
    forwards: int = 0
    m2t: int = 0
    t2t: int = 0
    reason: str = "length"


def decode(
    rule,
    prompt: list[int],
    *,
    mask_token_id: int,
    eos_token_id: int | None = None,
    block_length: int,
    max_new_tokens: int,
    threshold: float = 0.7,
    editing_threshold: float | None = 0.5,
    max_post_steps: int = 16,
    num_to_transfer: int = 1,
    eos_early_stop: bool = True,
) -> Decoded:
    """`rule` as in `fakes`; default mode only: the mask is never chosen."""
    size, end = block_length, len(prompt) + max_new_tokens
    tm = float(np.float32(threshold))
    te = math.inf if editing_threshold is None else float(np.float32(editing_threshold))
    x = prompt + [mask_token_id] * (-(-end // size) * size - len(prompt))
    out = Decoded([])
    for start in range(len(prompt) // size * size, end if max_new_tokens else 0, size):
        free = [i for i in range(start, start + size) if i >= len(prompt)]
        post = 0
        while True:
            masked = [i for i in free if x[i] == mask_token_id]
            post += not masked
            if post > max_post_steps:
                break
            out.forwards += 1
            best = {i: _best(rule(tuple(x[: start + size]), i), mask_token_id) for i in free}
            m2t = [i for i in masked if best[i][1] > tm]
            if len(m2t) < num_to_transfer:
                m2t = sorted(masked, key=lambda i: (-best[i][1], i))[:num_to_transfer]
            t2t = [i for i in free if i not in masked and best[i][1] > te and best[i][0] != x[i]]
            for i in m2t + t2t:
                x[i] = best[i][0]
            out.m2t += len(m2t)
            out.t2t += len(t2t)
            if not masked and not t2t:
                break
        if eos_early_stop and eos_token_id in x[len(prompt) : start + size]:
            break
    out.sequence = x[len(prompt) : end]
    if mask_token_id in out.sequence:  # blocks that were never reached
        out.sequence = out.sequence[: out.sequence.index(mask_token_id)]
    if eos_token_id in out.sequence:
        out.sequence = out.sequence[: out.sequence.index(eos_token_id) + 1]
        out.reason = "eos"
    return out


def _best(logits, mask: int) -> tuple[int, float]:
    z = np.asarray(logits, dtype=np.float64)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    z[mask] = -np.inf
    return int(z.argmax()), float(p[z.argmax()])
