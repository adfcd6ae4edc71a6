"""A step on a CPU that fills by a threshold and masks again what the model doubts, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.dispatch import implementation

TRIGGERS = ("low_prob", "t2t", "logit_diff")  # in the order of their codes in `csrc/fastedit.h`


def remask_step_(
    blocks: Blocks,
    logits: Tensor,
    post_steps: Tensor,
    remasked: Tensor,
    before: Tensor | None = None,
    *,
    trigger: str,
    tau: Tensor,
    cap: Tensor,
    share: Tensor,
    threshold: Tensor,
    max_post_steps: Tensor,
    num_to_transfer: Tensor,
    strict_reference: bool = False,
) -> None:
    """One greedy decision for B blocks of L positions; `blocks` and what is kept of them change in
    place.

    logits      [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts position i
    post_steps  int32 [B]     forwards without a mask
    remasked    int32 [B, L]  how often each position was remasked
    before      fp32 [B, L]   of trigger "logit_diff", and None for others: probability of the token
                              that was held or filled in the step before; negative: there is none
    trigger     "low_prob", "t2t" or "logit_diff"
    tau, threshold  fp32 [B]; share: fp64 [B]
    cap, max_post_steps, num_to_transfer  int32 [B]
    strict_reference  let the mask be chosen

    The rule is that of `policies.Remask`, which serves other devices, and all that draws. Blocks
    that are done keep everything. Never raises for values. Raises TypeError or ValueError for what
    does not fit `logits` or `blocks`, and for tensors elsewhere than on a CPU.
    """
    vocab = blocks.check(logits)[2]
    if trigger not in TRIGGERS:
        raise ValueError(f"trigger must be one of {', '.join(TRIGGERS)}; got {trigger!r}")
    if (before is None) == (trigger == "logit_diff"):
        raise ValueError(f"before is for trigger 'logit_diff', which needs it; got {trigger!r}")
    blocks.check_values(torch.int32, 2, remasked=remasked)
    if before is not None:
        blocks.check_values(torch.float32, 2, before=before)
    blocks.check_values(torch.float32, 1, tau=tau, threshold=threshold)
    blocks.check_values(torch.float64, 1, share=share)
    blocks.check_values(
        torch.int32,
        1,
        post_steps=post_steps,
        cap=cap,
        max_post_steps=max_post_steps,
        num_to_transfer=num_to_transfer,
    )
    implementation("remask_step_", "cpu")(
        blocks,
        logits,
        post_steps,
        remasked,
        before,
        trigger=trigger,
        settings=(tau, threshold, share, cap, max_post_steps, num_to_transfer),
        forbid=blocks.forbidden(vocab, strict_reference),
    )
