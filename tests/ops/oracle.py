"""The contracts of `fastedit.ops` once more, in float64 NumPy and one row at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)


@dataclass
class Row:
    token: int
    prob: float
    prob_current: float
    lse: float
    entropy: float
    exists: bool  # some allowed logit is finite
    bad: bool
    distance: np.ndarray  # how far each logit lies below the best, for tolerances


def row_stats(logits: np.ndarray, current: int, forbid=(), temperature: float = 1.0) -> Row:
    """`logits` [V]: the stored values, widened to float64."""
    z = np.where(np.isnan(logits), -np.inf, np.minimum(logits, LARGEST)) / temperature
    allowed = z.copy()
    allowed[list(forbid)] = -np.inf
    exists = allowed.max() > -np.inf
    bad = bool(np.isnan(logits).any() or (logits == np.inf).any() or not exists)
    if z.max() == -np.inf:
        return Row(current, 0.0, 0.0, -np.inf, 0.0, False, True, np.full(len(z), np.inf))
    distance = z.max() - z
    weight = np.exp(-distance)
    p = weight / weight.sum()
    token = int(allowed.argmax()) if exists else current
    some = p[p > 0]
    return Row(
        token=token,
        prob=p[token] if exists else 0.0,
        prob_current=p[current] if 0 <= current < len(p) else 0.0,
        lse=z.max() + math.log(weight.sum()),
        entropy=float(-(some * np.log(some)).sum()),
        exists=exists,
        bad=bad,
        distance=distance,
    )


def near(p: float, q: float) -> bool:
    """Whether fp32 arithmetic may see p and q on either side of each other: within 4 ulp."""
    if p == q in (0.0, 0.5, 1.0):  # exact in fp32 too
        return False
    if max(p, q) < TINY:
        return True
    return abs(p - q) <= 4 * float(np.spacing(np.float32(max(p, q))))


@dataclass
class Block:
    """One block before or after a step; field names as in `StepState`."""

    ids: list[int]
    editable: list[bool]
    post_steps: int = 0
    forwards: int = 0
    m2t_commits: int = 0
    t2t_edits: int = 0
    done: bool = False
    dirty: bool = False
    bad: bool = False
    certain: bool = field(default=True, compare=False)  # False: some comparison was within 4 ulp


def step(
    block: Block,
    logits: np.ndarray,
    *,
    mask_token_id: int,
    threshold: float,
    editing_threshold: float,
    max_post_steps: int,
    num_to_transfer: int,
    forbid=(),
    strict_reference: bool = False,
) -> Block:
    """The joint-threshold rule on one block; `logits` [L, V] float64."""
    mask, n = mask_token_id, num_to_transfer
    tm, te = float(np.float32(threshold)), float(np.float32(editing_threshold))
    new = Block(**vars(block))
    new.ids = list(block.ids)
    places = range(len(block.ids))
    active = [i for i in places if block.ids[i] == mask and block.editable[i]]
    others = [i for i in places if block.ids[i] != mask and block.editable[i]]
    if block.done:
        return new
    if not active and block.post_steps >= max_post_steps:
        new.done = True
        return new
    forbid = set(forbid) | ({mask} if not strict_reference and mask < logits.shape[1] else set())
    rows = [row_stats(logits[i], block.ids[i], forbid) for i in places]
    free = {i for i in places if rows[i].exists}
    p = [rows[i].prob for i in places]

    above = [i for i in active if i in free and p[i] > tm]
    ranked = sorted((i for i in active if i in free), key=lambda i: (-p[i], i))
    m2t = above if len(above) >= n else ranked[:n]
    t2t = [i for i in others if i in free and p[i] > te and rows[i].token != block.ids[i]]

    new.certain = not (
        any(near(p[i], tm) for i in ranked if tm < 1)
        or any(
            near(p[i], te) for i in others if te < 1 and i in free and rows[i].token != block.ids[i]
        )
        or any(
            near(p[i], p[j]) and not np.array_equal(logits[i], logits[j], equal_nan=True)
            for i in m2t
            for j in ranked
            if len(above) < n and j not in m2t
        )
    )
    for i in m2t + t2t:
        new.ids[i] = rows[i].token
    changed = new.ids != block.ids
    new.forwards += 1
    new.post_steps += not active
    new.m2t_commits += sum(new.ids[i] != mask for i in m2t)
    new.t2t_edits += len(t2t)
    new.dirty = changed
    looked_at = active + (others if te < math.inf else [])
    new.bad = block.bad or any(rows[i].bad for i in looked_at)
    left = any(new.ids[i] == mask and block.editable[i] for i in places)
    new.done = (not active and not changed) or (not left and new.post_steps >= max_post_steps)
    return new
