"""Small models of transformers' classes, one for each way to read a canvas."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from fastedit.models.families import Family

BLOCK = 4
FAMILIES: dict[str, tuple[str, Family]] = {
    "sdar": ("Qwen3", Family(block_length=BLOCK)),
    "fast_dllm_v2": ("Qwen2", Family(shift=1, block_length=BLOCK)),
    "llada": ("Llama", Family(attention="full", blocks="after_prompt", block_length=BLOCK)),
    "llada_moe": ("Qwen3Moe", Family(attention="full", blocks="after_prompt", block_length=BLOCK)),
    "dream": (
        "Qwen2",
        Family(attention="full", shift=1, blocks="after_prompt", block_length=BLOCK),
    ),
}


def family_model(name: str, *, vocab: int = 24, size: int = 16, layers: int = 2) -> Any:
    """A model with random weights that computes as checkpoints of this family do."""
    kind, _ = FAMILIES[name]
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "pad_token_id": None,
        "eos_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    if kind == "Qwen3Moe":
        options |= {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": size,
            "norm_topk_prob": False,
        }
    if kind != "Qwen2":
        options["head_dim"] = size // 2
    config = getattr(transformers, f"{kind}Config")(**options)
    return getattr(transformers, f"{kind}ForCausalLM")(config)
