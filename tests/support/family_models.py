"""Small models of the families that are classes of transformers, with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fastedit.models.families import Family, row_of
from fastedit.models.hub.modeling import model_class

BLOCK = 4
KINDS = {
    "sdar": "SDARForCausalLM",
    "fast_dllm_v2": "Fast_dLLM_QwenForCausalLM",
    "llada": "LLaDAModelLM",
    "llada_moe": "LLaDAMoEModelLM",
    "dream": "DreamModel",
}
ROWS = {name: row_of({"architectures": [kind]}) for name, kind in KINDS.items()}
# With short blocks, so that small documents have several.
FAMILIES: dict[str, Family] = {
    name: replace(row.family, block_length=BLOCK) for name, row in ROWS.items() if row
}


def family_model(name: str, *, vocab: int = 24, size: int = 16, **options: Any) -> Any:
    kind = model_class(ROWS[name])
    torch.manual_seed(0)
    options = {
        "vocab_size": vocab,
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "eos_token_id": 0,
        "mask_token_id": 1,
        **options,
    }
    if name == "llada_moe":
        options |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": size}
    if name in ("sdar", "llada_moe", "llada"):
        options["head_dim"] = size // 2
    return kind(kind.config_class(**options))
