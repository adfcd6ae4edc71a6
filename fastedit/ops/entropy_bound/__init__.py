"""DiffusionGemma's decision step on a CPU: draws, their entropies and the budget, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.dispatch import implementation
from fastedit.ops.sampling import Sampling


def entropy_bound_step_(
    blocks: Blocks,
    logits: Tensor,
    best: Tensor,
    stable: Tensor,
    *,
    bound: Tensor,
    t_min: Tensor,
    t_max: Tensor,
    steps: Tensor,
    stability: Tensor,
    confidence: Tensor,
    sampling: Sampling,
    strict_reference: bool = False,
) -> None:
    """One decision for B blocks of L positions; `blocks`, `best` and `stable` change in place.

    logits   [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts position i
    best     int64 [B, L]  best tokens of the step before
    stable   int32 [B]     steps on end whose best tokens were those of the step before
    bound, t_min, t_max, confidence  fp32 [B]; steps, stability: int32 [B]
    sampling  of the draws; its temperature has no effect
    strict_reference  let the mask be drawn

    The rule is that of `policies.EntropyBound`, which serves other devices. Blocks that are done
    keep everything. Never raises for values. Raises TypeError or ValueError for what does not fit
    `logits` or `blocks`, and for tensors elsewhere than on a CPU.
    """
    vocab = blocks.check(logits)[2]
    blocks.check_values(torch.int64, 2, best=best)
    blocks.check_values(torch.int32, 1, stable=stable, steps=steps, stability=stability)
    blocks.check_values(
        torch.float32, 1, bound=bound, t_min=t_min, t_max=t_max, confidence=confidence
    )
    for name, kind in _DRAWS.items():
        blocks.check_values(kind, 1, **{f"sampling.{name}": getattr(sampling, name)})
    if vocab == 1 and blocks.mask_token_id == 0:
        raise ValueError("logits of one id, which is the mask, leave none to choose")
    implementation("entropy_bound_step_", "cpu")(
        blocks,
        logits,
        best,
        stable,
        settings=(bound, t_min, t_max, confidence, steps, stability),
        sampling=sampling,
        forbid=blocks.forbidden(vocab, strict_reference),
    )


_DRAWS = {
    "top_k": torch.int64,
    "top_p": torch.float32,
    "seed": torch.int64,
    "start": torch.int64,
}
