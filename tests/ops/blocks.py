"""Batches of blocks for the decision step: built by hand or at random, run, and read back."""

from __future__ import annotations

import math
import os
from dataclasses import fields

import numpy as np
import torch
from oracle import Block

from fastedit import ops

MASK, A, B, C = 3, 0, 1, 2  # in hand-made blocks the vocabulary is A, B, C and the mask
STATE = [field.name for field in fields(ops.StepState)]
QUALITY = {"mask_token_id": MASK, "threshold": 0.7, "editing_threshold": 0.5, "max_post_steps": 16}


def interpreted(backend: str) -> bool:
    """Whether every program of a kernel takes milliseconds, so that a test must do with few."""
    return backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def row(token: int, p: float, vocab: int = 4) -> list[float]:
    """Logits whose softmax gives `p` to `token` and an equal share to every other id."""
    return [math.log(p) if i == token else math.log((1 - p) / (vocab - 1)) for i in range(vocab)]


def step(backend, ids, logits, editable=None, state=None, **options):
    """Run one step on lists or tensors; returns (ids as lists, state). Nothing passed changes."""
    ids, logits = torch.as_tensor(ids).clone(), torch.as_tensor(logits)
    editable = torch.ones_like(ids).bool() if editable is None else torch.as_tensor(editable)
    new = ops.StepState.new(len(ids))
    for name in STATE if state is not None else ():
        getattr(new, name).copy_(getattr(state, name))
    before = logits.clone()
    with ops.use_backend(backend):
        result = ops.joint_threshold_step_(ids, logits, editable, new, **(QUALITY | options))
    assert result is None
    assert torch.equal(logits, before) or before.isnan().any()
    return ids.tolist(), new


def values(state) -> list[tuple]:
    """Per block (post_steps, forwards, m2t_commits, t2t_edits, done, dirty, bad)."""
    return list(zip(*(getattr(state, name).tolist() for name in STATE), strict=True))


def random_batch(seed: int, blocks: int, length: int, vocab: int, dtype: torch.dtype):
    """(ids, logits, editable, state, mask_token_id, per-block settings), all oddities mixed in.

    Masks also stand at protected places; rows hold NaN, infinities or nothing; rows repeat.
    """
    rng = np.random.default_rng(seed)
    mask = vocab - 1 if rng.random() < 0.9 else vocab + 5
    shape = (blocks, length)
    ids = np.where(
        rng.random(shape) < rng.random((blocks, 1)), mask, rng.integers(vocab, size=shape)
    )
    editable = rng.random(shape) < 0.8
    z = rng.normal(size=(*shape, vocab)) * rng.choice([0.3, 2, 8], size=(*shape, 1))
    if vocab > 1:
        agree = rng.random(shape) < 0.3  # the model likes what stands there
        np.put_along_axis(z, np.minimum(ids, vocab - 1)[..., None], 9.0 * agree[..., None], -1)
    repeat = rng.random(shape) < 0.2
    z[repeat] = z[0, 0]
    for value, rate in ((np.nan, 0.02), (np.inf, 0.02), (-np.inf, 0.1)):
        z[(rng.random(shape) < rate)[..., None] & (rng.random(z.shape) < 0.3)] = value
    z[rng.random(shape) < 0.03] = -np.inf
    z[rng.random(shape) < 0.02] = np.nan
    state = ops.StepState.new(blocks)
    for name in STATE:
        field = getattr(state, name)
        top = 2 if field.dtype == torch.bool else 4
        field.copy_(torch.from_numpy(rng.integers(top, size=blocks) * (rng.random(blocks) < 0.3)))
    settings = {  # NumPy, one value per block
        "threshold": rng.choice([0.0, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0, np.inf], size=blocks),
        "editing_threshold": rng.choice([0.0, 0.2, 0.5, 0.9, 1.0, np.inf], size=blocks),
        "max_post_steps": rng.integers(4, size=blocks),
        "num_to_transfer": rng.integers(1, length + 3, size=blocks),
    }
    logits = torch.from_numpy(z).to(dtype)
    return torch.from_numpy(ids), logits, torch.from_numpy(editable), state, mask, settings


def state_of(*blocks: tuple) -> ops.StepState:
    """The inverse of `values`."""
    state = ops.StepState.new(len(blocks))
    for name, column in zip(STATE, zip(*blocks, strict=True), strict=True):
        getattr(state, name).copy_(torch.tensor(column))
    return state


def as_tensors(settings: dict) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(value).to(torch.float32 if "threshold" in name else torch.int32)
        for name, value in settings.items()
    }


def as_blocks(ids, editable, state) -> list[Block]:
    return [
        Block(i, e, **dict(zip(STATE, s, strict=True)))
        for i, e, s in zip(ids, editable, values(state), strict=True)
    ]
