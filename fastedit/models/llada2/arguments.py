"""Keyword arguments of `forward` beyond those it names: honoured, or refused by name.

transformers' models take any and pass them on, so a misspelt or foreign one vanishes there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import MoeModelOutputWithPast

from .configuration import LLaDA2MoeConfig

# transformers 5.24 calls the cache `cache`, in outputs and where checkpointed layers look for it.
_NAMES = {field.name for field in fields(MoeModelOutputWithPast)}
CACHE = "cache" if "cache" in _NAMES else "past_key_values"

_CAPTURED = ("output_attentions", "output_hidden_states")
_PACKED = (
    "pack documents with position_ids that begin again at 0, or with a bool 4-D attention_mask"
)
_REFUSED = {
    **dict.fromkeys(
        ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"), _PACKED
    ),
    **dict.fromkeys(("cu_seqlens", "max_seqlen", "seqlens"), _PACKED),
    "cache_position": "tokens follow the cache; say otherwise with position_ids",
    "cross_attn_head_mask": "there is no cross-attention",
    "encoder_attention_mask": "there is no encoder",
    "encoder_hidden_states": "there is no encoder",
    "head_mask": "heads cannot be switched off",
    "is_causal": "attention is block-causal; pass a bool 4-D attention_mask for any other",
    "num_logits_to_keep": "its name is logits_to_keep",
    "output_router_logits": "routers keep no logits, and this family has no auxiliary loss",
    "token_type_ids": "there are no segments; call the tokenizer with return_token_type_ids=False",
}


def checked(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` of a model, after a look at the keyword arguments that it does not name.

    Those that ask for nothing pass: None, an output that is False, segments that are all 0; so do
    the outputs that transformers records for `forward`. ValueError for what transformers knows
    and this family cannot honour, TypeError for the rest.
    """
    named = inspect.signature(forward).parameters.keys() | {"return_dict"}

    @functools.wraps(forward)
    def checking(self: Any, *args: Any, **kwargs: Any) -> Any:
        _check({name: kwargs[name] for name in kwargs if name not in named}, self.config)
        return forward(self, *args, **kwargs)

    return checking


def _check(given: Mapping[str, Any], config: LLaDA2MoeConfig) -> None:
    for name, value in given.items():
        if name in _CAPTURED or value is None:
            continue
        if name not in _REFUSED:
            raise TypeError(f"forward() got an unexpected keyword argument {name!r}")
        if not _asks_for_nothing(name, value):
            raise ValueError(f"{name} is not supported: {_REFUSED[name]}")
    wanted = given.get("output_attentions")
    if wanted is None:
        wanted = getattr(config, "output_attentions", False)
    if wanted and config._attn_implementation != "eager":
        raise ValueError(
            f"output_attentions=True needs the weights, which {config._attn_implementation!r} "
            'attention does not keep: call model.set_attn_implementation("eager")'
        )


def check_labels(labels: Tensor, inputs: Tensor | None) -> None:
    """Raises ValueError where `labels` are not [B, Q] beside `inputs` [B, Q] or [B, Q, H]."""
    if inputs is not None and labels.shape != inputs.shape[:2]:
        raise ValueError(
            f"labels must be [batch, queries] = {list(inputs.shape[:2])}, one for each token and "
            f"-100 where there is none, got {list(labels.shape)}"
        )


def one_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The cache, whichever of its two names it came under."""
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("past_key_values and cache are two names of one argument: pass one")
    return cache if past_key_values is None else past_key_values


def _asks_for_nothing(name: str, value: Any) -> bool:
    if name == "token_type_ids" and isinstance(value, Tensor):  # some tokenizers always add them
        return not bool(value.any())
    return name.startswith("output_") and value is False
