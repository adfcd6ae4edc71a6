"""LLaDA's and SDAR's released loops written plainly around a causal class of transformers.

Greedy, prompts [B, P] of one length. Both call `on_block` where the released code knows that a
block is finished, and return the canvas behind the prompts, as released.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


def _nothing() -> None:
    pass


@torch.no_grad()
def llada(
    model: PreTrainedModel,
    prompts: Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    mask_id: int,
    on_block: Callable[[], None] = _nothing,
) -> Tensor:
    """`generate` of ML-GSAI/LLaDA without guidance; `steps` are of a block."""
    x = _canvas(prompts, prompts.shape[1] + gen_length, mask_id)
    length = x.shape[1]
    everything = torch.ones(1, 1, length, length, dtype=torch.bool)
    positions = torch.arange(length)[None]
    for begin in range(prompts.shape[1], length, block_length):
        end = begin + block_length
        masks = (x[:, begin:end] == mask_id).sum(1).tolist()
        for step in range(steps):
            logits = model(
                input_ids=x,
                attention_mask=everything.expand(len(x), -1, -1, -1),
                position_ids=positions,
                use_cache=False,
            ).logits
            token, confidence = _greedy(logits)
            confidence[(x != mask_id)] = -torch.inf
            confidence[:, end:] = -torch.inf
            for row, count in enumerate(masks):
                best = confidence[row].topk(count // steps + (step < count % steps)).indices
                x[row, best] = token[row, best]
        on_block()
    return x[:, prompts.shape[1] :]


@torch.no_grad()
def sdar(
    model: PreTrainedModel,
    prompts: Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    threshold: float,
    mask_id: int,
    on_block: Callable[[], None] = _nothing,
) -> Tensor:
    """The loop of SDAR's evaluation, with its cache of finished blocks; no stop token ends it."""
    start, blocks = prompts.shape[1], -(-(prompts.shape[1] + gen_length) // block_length)
    x = _canvas(prompts, blocks * block_length, mask_id)
    block_of = torch.arange(x.shape[1]) // block_length
    causal = block_of <= block_of[:, None]
    cache = DynamicCache()

    def forward(begin: int, end: int) -> Tensor:
        seen = causal[None, None, begin:end, :end].expand(len(x), -1, -1, -1)
        return model(
            input_ids=x[:, begin:end],
            attention_mask=seen,
            position_ids=torch.arange(begin, end)[None],
            past_key_values=cache,
            use_cache=True,
        ).logits

    first = start // block_length
    if first:
        forward(0, first * block_length)
    for begin in range(first * block_length, x.shape[1], block_length):
        block = x[:, begin : begin + block_length]
        for step in range(steps + 1):
            logits = forward(begin, begin + block_length)
            masked = block == mask_id
            if not masked.any():  # with the final ids: what this forward stored stays
                break
            cache.crop(-block_length)
            token, confidence = _greedy(logits)
            confidence[~masked] = -torch.inf
            quota = block_length // steps + (step < block_length % steps)
            for row in range(len(x)):
                fill = confidence[row] > threshold
                if threshold >= 1 or fill.sum() < quota:
                    best = confidence[row].topk(min(quota, int(masked[row].sum()))).indices
                    fill = torch.zeros_like(fill).index_fill_(0, best, True)
                block[row, fill] = token[row, fill]
        on_block()
    return x[:, start:]


def _canvas(prompts: Tensor, length: int, mask_id: int) -> Tensor:
    masks = prompts.new_full((len(prompts), length - prompts.shape[1]), mask_id)
    return torch.cat((prompts, masks), dim=1)


def _greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Best token of every row and its probability, in the logits' dtype."""
    token = logits.argmax(-1)
    return token, logits.softmax(-1).gather(-1, token[..., None])[..., 0]
