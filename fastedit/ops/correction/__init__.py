"""A step on a CPU that fills by a clock and takes back what the model doubts, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.dispatch import implementation


def correction_step_(
    blocks: Blocks,
    logits: Tensor,
    turn: Tensor,
    *,
    steps: Tensor,
    stride: Tensor,
    budget: Tensor,
    ring: Tensor,
    tau: Tensor,
    limit: Tensor,
    strict_reference: bool = False,
) -> None:
    """One greedy decision for B blocks of L positions; `blocks` and `turn` change in place.

    logits  [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts position i
    turn    int32 [B, L]  of the last remask of each position, counted
    steps, stride, budget, ring  int32 [B]; tau: fp32 [B]
    limit   int32 [B]  decisions that a block may take: the last one fills what masks are left
    strict_reference  let the mask be chosen

    The rule is that of `policies.Correction` with `scorer="confidence"` and the fill that goes by a
    clock and by confidence; it serves other devices, and all that draws. Blocks that are done keep
    everything. Never raises for values. Raises TypeError or ValueError for what does not fit
    `logits` or `blocks`, and for tensors elsewhere than on a CPU.
    """
    vocab = blocks.check(logits)[2]
    blocks.check_values(torch.int32, 2, turn=turn)
    blocks.check_values(torch.float32, 1, tau=tau)
    blocks.check_values(
        torch.int32, 1, steps=steps, stride=stride, budget=budget, ring=ring, limit=limit
    )
    implementation("correction_step_", "cpu")(
        blocks,
        logits,
        turn,
        settings=(steps, stride, budget, ring, limit, tau),
        forbid=blocks.forbidden(vocab, strict_reference),
    )
