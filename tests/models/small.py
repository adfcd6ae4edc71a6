"""A LLaDA2.x model small enough to be made anew in every test, and ids for it."""

from __future__ import annotations

import functools

import torch

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "block_size": 4,
}


def tiny_config(**overrides) -> LLaDA2MoeConfig:
    return LLaDA2MoeConfig(**{**TINY, "initializer_range": 0.3, **overrides})


def tiny(attn: str = "sdpa", **overrides) -> LLaDA2MoeModelLM:
    torch.manual_seed(0)
    config = tiny_config(**overrides)
    return LLaDA2MoeModelLM._from_config(config, attn_implementation=attn).eval()


def checkpointed(model: LLaDA2MoeModelLM, **kwargs) -> LLaDA2MoeModelLM:
    """`model` with gradient checkpointing, whose method transformers renamed in 5.22."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model, name) for name in names if hasattr(model, name))(kwargs or None)
    return model


def random_ids(*shape: int, vocab: int = 64) -> torch.Tensor:
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(1))


IDS = random_ids(2, 10)
close = functools.partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)


def logits(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).logits
