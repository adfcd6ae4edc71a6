"""Options and prompts that several tests decode with, and results in a form to compare."""

from dataclasses import replace

import torch
from fakes import ScriptedModel, hashed

# Of a model without weights, in four blocks at most.
V, MASK = 9, 8
SCRIPTED = {
    "mask_token_id": MASK,
    "eos_token_id": [],
    "use_cache": False,
    "block_length": 4,
    "max_new_tokens": 6,
    "max_post_steps": 1,
}

# Of the golden model: it edits so much that a third of its blocks settle within this budget.
B = 8
GOLDEN = {
    "mask_token_id": 127,
    "eos_token_id": [17, 40, 63],
    "block_length": B,
    "max_new_tokens": 27,
    "max_post_steps": 4,
    "seed": 4,
}
ENDS = [  # how blocks end
    {"threshold": 0.7, "editing_threshold": 0.5},  # settled, or out of budget
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 0},  # right after a commit
    {"threshold": 0.5, "editing_threshold": 0.0, "max_post_steps": 2},  # budget out with an edit
]
DRAWN = {"threshold": 0.3, "editing_threshold": 0.2, "temperature": 1.0}


def scripted() -> ScriptedModel:
    return ScriptedModel(V, hashed(V, MASK, 1))


def prompt(length: int) -> torch.Tensor:
    return torch.randint(7, 120, (length,), generator=torch.Generator().manual_seed(length))


PROMPTS = [prompt(length) for length in (3, 9, 16, 30, 31)]


def results(out):
    """Ids and stats of each request; prefill forwards depend on what was in the pool already."""
    pairs = zip(out.sequences, out.stats, strict=True)
    return [(ids.tolist(), replace(stats, prefill_forwards=0)) for ids, stats in pairs]
