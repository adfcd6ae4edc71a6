"""Calls of `ops.draft_and_corrupt` on small vocabularies, with what most of them have in common."""

import torch

from fastedit import ops

MASK = 2  # of the small vocabularies
PLAIN = ops.DraftOptions(mask_token_id=MASK, p_random=0.0)


def key(rows, **parts):
    """Rows of example 7, one after another."""
    defaults = {"seed": 5, "epoch": 0, "example": 7, "position": torch.arange(rows), "turn": 0}
    parts = defaults | parts
    for name in ("example", "position"):
        parts[name] = torch.as_tensor(parts[name]).expand(rows)
    return ops.DraftKey(**parts)


def run(backend, logits, xt, x0=None, options=PLAIN, eligible=None, keyed=None):
    """`Drafted` of lists or tensors; x0 defaults to zeros, and every row takes part."""
    logits, xt = torch.as_tensor(logits), torch.as_tensor(xt)
    x0 = torch.zeros_like(xt) if x0 is None else torch.as_tensor(x0)
    eligible = torch.ones_like(xt).bool() if eligible is None else torch.as_tensor(eligible)
    with ops.use_backend(backend):
        return ops.draft_and_corrupt(logits, xt, x0, eligible, options, keyed or key(len(xt)))
