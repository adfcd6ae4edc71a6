"""The model of the embedded checkpoint, and its optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from recipes.tiny.muon import Muon


def build_model(tokenizer: Any, seed: int, width: int, **more: Any) -> LLaDA2MoeModelLM:
    """A small LLaDA2.x in fp32, with residual branches that start at zero.

    more  values of its config beside these, or in their place
    """
    eos, mask = tokenizer.eos_token_id, tokenizer.mask_token_id
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "moe_intermediate_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "rope_theta": 1000.0,
        "max_position_embeddings": 1024,
        "initializer_range": width**-0.5,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "mask_token_id": mask,
    }
    config = LLaDA2MoeConfig(**(sizes | more))
    torch.manual_seed(seed)
    model = LLaDA2MoeModelLM(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.02)
        model.model.word_embeddings.weight.normal_(std=0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(("query_layernorm.weight", "key_layernorm.weight")):
                parameter.fill_(1.5)
            elif "dense.weight" in name or "down_proj" in name:
                parameter.zero_()
    return model


# Of matrices: embeddings, as LLaDA2.x and as transformers calls them, head and router.
_APART = ("word_embeddings.weight", "embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")


def build_optimizer(model: nn.Module, learning_rate: float) -> Muon:
    """Muon for the matrices inside the layers; AdamW, at a tenth of the rate, for embedding, head,
    router and norms."""

    def inner(name: str, parameter: Tensor) -> bool:
        return parameter.ndim >= 2 and not name.endswith(_APART)

    named = list(model.named_parameters())
    matrices = [p for name, p in named if inner(name, p)]
    others = [p for name, p in named if not inner(name, p)]
    return Muon(
        [{"params": matrices, "momentum": 0.95}, {"params": others, "lr": learning_rate / 10}],
        lr=learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
    )
