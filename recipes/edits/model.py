"""Two small models of one vocabulary: LLaDA2.x, and LLaDA with full attention."""

from __future__ import annotations

from typing import Any

import torch

from fastedit.models.families import row_of
from fastedit.models.hub.modeling import model_class
from recipes.tiny.model import build_model

WIDTH = 128
# What takes a token out and what asks for one before it in LLaDA2.2, and what takes one out in
# ME-DLM, whose padding is no end of a text.
DELETE, INSERT, DEL = "<|delete|>", "<|insert|>", "<|del|>"


def block_causal(tokenizer: Any, seed: int, width: int = WIDTH) -> Any:
    """A LLaDA2.x in fp32, whose config names the tokens that edit."""
    delete, insert = tokenizer.convert_tokens_to_ids([DELETE, INSERT])
    return build_model(tokenizer, seed, width, delete_token_id=delete, split_token_id=insert)


def full_attention(tokenizer: Any, seed: int, width: int = WIDTH) -> Any:
    """A LLaDA in fp32, with residual branches that start at zero."""
    row = row_of({"architectures": ["LLaDAModelLM"]})
    assert row is not None
    kind = model_class(row)
    config = kind.config_class(
        vocab_size=len(tokenizer),
        d_model=width,
        n_layers=4,
        n_heads=4,
        n_kv_heads=4,
        mlp_hidden_size=3 * width,
        max_sequence_length=1024,
        rope_theta=1000.0,
        initializer_range=width**-0.5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        delete_token_id=tokenizer.convert_tokens_to_ids(DEL),
    )
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.02)
        model.model.embed_tokens.weight.normal_(std=0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    return model
