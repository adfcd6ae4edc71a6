"""The released decoding rule written plainly: whole prefix every forward, one prompt at a time."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def generate(
    model,
    prompt: Tensor,
    *,
    gen_length: int,
    block_length: int,
    threshold: float,
    editing_threshold: float,
    max_post_steps: int,
    num_to_transfer: int,
    mask_id: int,
    eos_id: int,
) -> Tensor:
    """Generated ids of `prompt` [P], cut behind the first EOS; all blocks run, as released."""
    start, blocks = len(prompt), -(-(len(prompt) + gen_length) // block_length)
    device = next(model.parameters()).device
    x = torch.full((1, blocks * block_length), mask_id, device=device)
    x[0, :start] = prompt
    block_of = torch.arange(blocks * block_length, device=device) // block_length
    causal = block_of[None, :] <= block_of[:, None]
    is_prompt = torch.arange(blocks * block_length, device=device) < start
    for block in range(start // block_length, blocks):
        begin, end = block * block_length, (block + 1) * block_length
        post = 0
        while True:
            ids = x[0, begin:end]
            masked = ids == mask_id
            had_mask = bool(masked.any())
            post += not had_mask
            if post > max_post_steps:
                break
            logits = model(
                input_ids=x[:, :end],
                attention_mask=causal[None, None, :end, :end],
                position_ids=torch.arange(end, device=device)[None],
                use_cache=False,
            ).logits[0, -block_length:]
            probs = logits.float().softmax(-1)
            confidence, token = probs.max(-1)
            fill = masked & (confidence > threshold)
            if had_mask and fill.sum() < num_to_transfer:
                ranked = confidence.masked_fill(~masked, -1.0)
                ranked = ranked.sort(descending=True, stable=True).indices
                fill = torch.zeros_like(masked)
                fill[ranked[: min(num_to_transfer, int(masked.sum()))]] = True
            edit = ~masked & ~is_prompt[begin:end]
            edit &= (confidence > editing_threshold) & (token != ids)
            x[0, begin:end] = torch.where(fill | edit, token, ids)
            if not had_mask and not edit.any():
                break
    y = x[0, start : start + gen_length]
    ends = (y == eos_id).nonzero()
    return y[: int(ends[0]) + 1] if len(ends) else y


def like(decoder, prompt: Tensor, new_tokens: int) -> Tensor:
    """`generate` with the settings of a Decoder; no EOS ends it. Ids on the CPU."""
    config = decoder.config
    return generate(
        decoder.model,
        prompt,
        gen_length=new_tokens,
        block_length=config.block_length,
        threshold=config.threshold,
        editing_threshold=config.editing_threshold,
        max_post_steps=config.max_post_steps,
        num_to_transfer=config.num_to_transfer,
        mask_id=decoder.model.config.mask_token_id,
        eos_id=-1,
    ).cpu()
