"""Models of published sizes with random weights, and the same weights in transformers' own class.

Weights are built part by part, so that a quantised model is never there as a whole in bf16.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torchao_weights import quantise

from fastedit.models.families import row_of
from fastedit.models.hub.modeling import model_class

SIZES: dict[str, dict[str, Any]] = {
    "SDAR-1.7B": {
        "model_type": "sdar",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "block_size": 4,
        "mask_token_id": 151669,
    },
    "LLaDA-8B": {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "embedding_size": 126464,
        "vocab_size": 126464,
        "d_model": 4096,
        "mlp_hidden_size": 12288,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_sequence_length": 4096,
        "weight_tying": False,
        "mask_token_id": 126336,
    },
}
LAYERS = {"sdar": "num_hidden_layers", "llada": "n_layers"}
# Odd, so that no two rows of a matrix begin at the same place of the noise.
NOISE = 2**24 + 43
PEAKED = 2.0  # of queries and keys, so that positions see different things


def random_model(published: dict[str, Any], weights: str, layers: int | None = None) -> Any:
    """A model of ours of these sizes. weights: "fp32", "bf16", "int8" or "int4" over bf16."""
    if layers is not None:
        published = published | {LAYERS[published["model_type"]]: layers}
    kind = model_class(row_of(published))
    config = kind.config_class(**published)
    dtype = torch.float32 if weights == "fp32" else torch.bfloat16
    with torch.device("meta"):
        model = kind(config).to(dtype)
    fill = noise(dtype)
    inner = model.model
    for part in (inner.embed_tokens, *inner.layers, inner.norm, model.lm_head):
        part.to_empty(device="cpu")
        fill(part)
        if weights in ("int8", "int4"):
            quantise(nn.ModuleList([part]), weights)
    inner.rotary_emb = type(inner.rotary_emb)(config)
    return model.eval()


def noise(dtype: torch.dtype) -> Callable[[nn.Module], None]:
    """Fills modules with normal values: outputs of linear layers vary by 1, and so do embeddings.

    Drawn once and gone through again and again: 8e9 draws would take minutes.
    """
    drawn = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).to(dtype)
    place = 0

    def copy(flat: Tensor, scale: float) -> None:
        nonlocal place
        while len(flat):
            piece = drawn[place : place + len(flat)]
            torch.mul(piece, scale, out=flat[: len(piece)])
            flat, place = flat[len(piece) :], (place + len(piece)) % NOISE

    @torch.no_grad()
    def fill(part: nn.Module) -> None:
        for name, weight in part.named_parameters():
            peaked = PEAKED if "q_" in name or "k_" in name else 1.0
            if weight.ndim == 1:
                weight.fill_(peaked)
            else:
                scale = 1.0 if isinstance(part, nn.Embedding) else weight.shape[1] ** -0.5
                copy(weight.view(-1), peaked * scale)

    return fill


def native_of(model: Any) -> Any:
    """transformers' own causal class over the very weights of `model`."""
    kind = getattr(transformers, model.row.model)
    sizes = model.config.to_dict()
    for key in ("model_type", "architectures"):
        sizes.pop(key, None)
    config = kind.config_class(**sizes)
    with torch.device("meta"):
        native = kind(config)
    for name, weight in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(native.get_submodule(owner), leaf, weight)
    native.model.rotary_emb = type(native.model.rotary_emb)(config)
    assert not any(x.is_meta for x in itertools.chain(native.parameters(), native.buffers()))
    return native.eval()
