"""A model with random weights: LLaDA2.1-mini's shape in bf16 on a GPU, else a small one in fp32."""

from __future__ import annotations

from typing import Any

import torch

from fastedit import Decoder
from fastedit.engine.engine import Engine
from fastedit.memory.capacity import capacity
from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32


def shape() -> LLaDA2MoeConfig:
    if GPU:
        return LLaDA2MoeConfig.mini()
    return LLaDA2MoeConfig(
        vocab_size=16_384,
        hidden_size=512,
        intermediate_size=1024,
        moe_intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=32,
        num_experts_per_tok=4,
        n_group=1,
        topk_group=1,
        max_position_embeddings=4096,
        mask_token_id=16_383,
        eos_token_id=16_382,
    )


def stepping(decoder: Decoder, prompts: Any, settings: dict[str, Any], batch: int) -> Any:
    """(an engine of its own, its run over `prompts`, one step at a time)."""
    requests, room = decoder._prepare(prompts, None, None, settings, max_batch=batch)
    capable = capacity(room, decoder.model, decoder.device)
    engine = Engine(decoder.model, decoder.device, capable)
    return engine, engine.run(requests)


def random_decoder() -> Decoder:
    torch.manual_seed(0)
    config = shape()
    with torch.device("meta"):
        model = LLaDA2MoeModelLM(config).to(DTYPE)
    model = model.to_empty(device=DEVICE)
    for name, tensor in model.state_dict().items():
        if name.endswith("expert_bias"):
            tensor.zero_()
        elif tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=config.initializer_range)
    return Decoder(model.eval())
