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
    strict: bool = False,
    draft: list[int] | None = None,
    keep_draft: bool = False,
) -> Decoded:
    """`rule` as in `fakes`. strict: the mask may be chosen, as in the released loop, and masks of
    the prompt are active; reason "stalled" where that loop would go on for ever. draft: what stands
    behind the prompt, in place of masks; with `keep_draft` its tokens stay."""
    size, end = block_length, len(prompt) + max_new_tokens
    tm = float(np.float32(threshold))
    te = math.inf if editing_threshold is None else float(np.float32(editing_threshold))
    x = prompt + (draft or [])
    x += [mask_token_id] * (-(-end // size) * size - len(x))
    kept = {i for i, token in enumerate(x) if keep_draft and token != mask_token_id}
    out = Decoded([])
    for start in range(len(prompt) // size * size, end if max_new_tokens else 0, size):
        free = [i for i in range(max(start, len(prompt)), start + size) if i not in kept]
        block = range(start, start + size)
        post, seen = 0, set()
        while True:
            masked = [i for i in (block if strict else free) if x[i] == mask_token_id]
            post += not masked
            if post > max_post_steps:
                break
            if masked and (post, *x[start : start + size]) in seen:
                out.sequence, out.reason = x[len(prompt) : start], "stalled"
                return out
            seen.add((post, *x[start : start + size]))
            out.forwards += 1
            banned = None if strict else mask_token_id
            best = {i: _best(rule(tuple(x[: start + size]), i), banned) for i in block}
            m2t = [i for i in masked if best[i][1] > tm]
            if len(m2t) < num_to_transfer:
                m2t = sorted(masked, key=lambda i: (-best[i][1], i))[:num_to_transfer]
            t2t = [i for i in free if i not in masked and best[i][1] > te and best[i][0] != x[i]]
            for i in m2t + t2t:
                x[i] = best[i][0]
            out.m2t += sum(x[i] != mask_token_id for i in m2t)
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


def _best(logits, banned: int | None) -> tuple[int, float]:
    z = np.asarray(logits, dtype=np.float64)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    if banned is not None:
        z[banned] = -np.inf
    return int(z.argmax()), float(p[z.argmax()])
