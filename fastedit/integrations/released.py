"""The released `generate` of LLaDA2.1: the same signature, the same results."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastedit.config import DecodeConfig
from fastedit.decoder import Decoder
from fastedit.integrations.transformers import check_whole


def released_generate(
    model: Any,
    inputs: Tensor,
    temperature: float = 0.0,
    block_length: int = 32,
    steps: int = 32,
    gen_length: int = 2048,
    top_p: float | None = None,
    top_k: int | None = None,
    eos_early_stop: bool = False,
    minimal_topk: int = 1,
    threshold: float = 0.95,
    editing_threshold: float | None = 0.9,
    max_post_steps: int = 16,
    eos_id: int = 156892,
    mask_id: int = 156895,
    num_to_transfer: int = 1,
    *,
    attention_mask: Tensor | None = None,
    streamer: Any = None,
    seed: int | list[int] | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Generated ids [1, n] of the prompt `inputs` [1, P]: prompt excluded, first EOS included.

    Names, order and defaults are those of the released loop. Beyond it: `inputs` [B, P] with an
    `attention_mask` gives [B, n], right-padded with `eos_id`; `streamer` takes a transformers
    streamer; `seed` fixes the draws when `temperature` > 0. `steps` and `minimal_topk` have no
    effect, as in the released loop. A literal mask id in the prompt is kept and protected.
    Source: the released LLaDA2.1 modeling code.
    """
    if steps != 32 or minimal_topk != 1:
        warnings.warn("steps and minimal_topk have no effect in LLaDA2.1 decoding", stacklevel=2)
    config = DecodeConfig(
        temperature=temperature,
        block_length=block_length,
        max_new_tokens=gen_length,
        top_p=top_p,
        top_k=top_k,
        eos_early_stop=eos_early_stop,
        threshold=threshold,
        editing_threshold=editing_threshold,
        max_post_steps=max_post_steps,
        eos_token_id=eos_id,
        mask_token_id=mask_id,
        num_to_transfer=num_to_transfer,
        seed=seed,
        use_cache=use_cache,
    )
    decoder = Decoder(model, config=config)
    out = decoder.generate(inputs, attention_mask, streamer, allow_mask_in_prompt=True)
    check_whole(out)
    return pad_sequence(out.sequences, batch_first=True, padding_value=eos_id).to(
        inputs.device, torch.int64
    )
