"""A DiffusionGemma of random weights, small enough for tests; benchmarks give it a vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)


def model(vocab: int, canvas: int, hidden: int = 32) -> Any:
    """Two layers, one with a sliding window.

    The embeddings are large beside the other weights, so that some canvases settle after a few
    steps and others do not.
    """
    size = {"hidden_size": hidden, "intermediate_size": hidden, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    text = DiffusionGemmaTextConfig(
        **size,
        vocab_size=vocab,
        num_hidden_layers=2,
        **heads,
        num_global_key_value_heads=1,
        global_head_dim=16,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    images = Gemma4VisionConfig(**size, **heads, num_hidden_layers=1)
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(
        text_config=text,
        vision_config=images,
        image_token_id=vocab - 1,
        canvas_length=canvas,
        initializer_range=0.1,
    )
    made = DiffusionGemmaForBlockDiffusion(config).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(4.0)  # tied to all embeddings
    return made
