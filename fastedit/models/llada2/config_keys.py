"""What a key of a LLaDA2.x `config.json` may say beyond the fields of `LLaDA2MoeConfig`.

A key is honoured (a field), redundant and checked against a field, fixed to the one value that this
implementation computes with, or known to change no result. Others are reported by a warning.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

# Keys of the family with the only value that is implemented, which the released checkpoints have.
FIXED: dict[str, object] = {
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "norm_topk_prob": True,
    "score_function": "sigmoid",
    "router_dtype": "fp32",
    "moe_router_enable_expert_bias": True,
    "use_rmsnorm": True,
    "norm_head": False,
    "norm_softmax": False,
    "using_split_qkv_in_self_attention": False,
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "output_dropout": 0.0,
}
# Names that other families have for the same and for other arithmetic, with what is implemented.
FIXED_ELSEWHERE: dict[str, object] = {
    **dict.fromkeys(
        (
            "add_bias_linear",
            "add_qkv_bias",
            "alibi",
            "attention_bias",
            "attn_output_gate",
            "bias",
            "is_causal",
            "lm_head_bias",
            "mlp_bias",
            "moe_shared_expert_gate",
            "multi_gate",
            "parallel_attn",
            "qkv_bias",
            "rope_interleave",
            "rope_interleaved",
            "rotary_interleaved",
            "shared_expert_gate",
            "tie_embeddings",
            "use_parallel_residual",
            "use_qkv_bias_in_attention",
        ),
        False,
    ),
    **dict.fromkeys(("qk_norm", "qk_layernorm", "use_qk_layernorm", "use_rms_norm"), True),
    **dict.fromkeys(("pre_norm", "scale_attn_weights", "use_rope", "use_rotary"), True),
    **dict.fromkeys(("norm_expert_weights", "use_routed_scaling"), True),
    **dict.fromkeys(("norm_topk", "normalize_expert_weights"), True),
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout", "hidden_dropout"), 0.0),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    **dict.fromkeys(("num_nextn_predict_layers", "layer_group_size", "expert_dropout"), 0),
    **dict.fromkeys(("decoder_sparse_step", "moe_layer_freq"), 1),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "scale_emb"), 1),
    **dict.fromkeys(("logit_scale", "logits_scaling"), 1),
    **dict.fromkeys(("scoring_func", "moe_router_score_function"), "sigmoid"),
    "topk_method": "noaux_tc",
    "position_embedding_type": "rope",
    **dict.fromkeys(
        (
            "attn_logit_softcapping",
            "clip_qkv",
            "final_logit_softcapping",
            "mlp_only_layers",
            "no_rope_layers",
            "swiglu_limit",
        ),
        None,
    ),
}
_SAME_AS: dict[str, Callable[[Any], object]] = {
    "rotary_dim": lambda config: config.rotary_dim,
    "rotary_pct": lambda config: config.partial_rotary_factor,
    "rope_base": lambda config: config.rope_theta,
    "rotary_base": lambda config: config.rope_theta,
    "rotary_emb_base": lambda config: config.rope_theta,
    "softmax_scale": lambda config: config.head_dim**-0.5,
    "activation_function": lambda config: config.hidden_act,
    "n_routed_experts": lambda config: config.num_experts,
    "num_local_experts": lambda config: config.num_experts,
    "n_shared_experts": lambda config: config.num_shared_experts,
    "num_experts_per_token": lambda config: config.num_experts_per_tok,
    "moe_topk": lambda config: config.num_experts_per_tok,
    "moe_router_topk_scaling_factor": lambda config: config.routed_scaling_factor,
    "shared_expert_intermediate_size": lambda config: (
        config.num_shared_experts * config.moe_intermediate_size
    ),
    "moe_shared_expert_intermediate_size": lambda config: (
        config.num_shared_experts * config.moe_intermediate_size
    ),
    "hidden_activation": lambda config: config.hidden_act,
    "layer_norm_eps": lambda config: config.rms_norm_eps,
    "norm_eps": lambda config: config.rms_norm_eps,
    "query_pre_attn_scalar": lambda config: config.head_dim,
    "attention_multiplier": lambda config: config.head_dim**-0.5,
    "layer_types": lambda config: ["full_attention"] * config.num_hidden_layers,
}
# Without an effect on any result here: where things come from, and what only other code reads.
# Parts of names that speak of arithmetic. A key with one that nobody here knows is refused.
_SUSPICIOUS = re.compile(
    r"rope|rotary|alibi|position|bias|norm|softcap|softmax|scale|scaling|multiplier|window|router|"
    r"routing|expert|moe|gate|attention|attn|activation|residual|embed|dropout|mlp|ffn|logit|tie_"
)
_INERT = frozenset(
    """
    _attn_implementation _attn_implementation_internal _commit_hash _experts_implementation
    _flash_attn_2_enabled _moe_implementation _name_or_path attn_implementation auto_map
    delete_token_id experts_implementation image_token_offset insert_token_id max_window_layers
    model_type moe_implementation name_or_path num_labels output_attentions pretraining_tp
    output_router_logits quantization_config rope_parameters router_aux_loss_coef sliding_window
    split_token_id task_specific_params tokenizer_class torch_dtype transformers_weights
    unsloth_fixed unsloth_version use_return_dict
    """.split()
)


def check_keys(config: Any, extra: Mapping[str, Any]) -> None:
    """Refuse what changes arithmetic and is not implemented, warn of what nobody here knows.

    extra: the keys of the file that are no field of `config`. A null is a key that is not given.
    Raises ValueError with the key, its value and the value that is implemented.
    """
    values = {name: getattr(config, name) for name in FIXED if hasattr(config, name)} | dict(extra)
    for name, value in values.items():
        if value is None:
            continue
        if name in FIXED and not _same(name, value, FIXED[name]):
            raise ValueError(
                f"{name}={value!r} is not supported: "
                f"LLaDA2.x checkpoints have {name}={FIXED[name]!r}"
            )
        if name in FIXED_ELSEWHERE and not _same(name, value, FIXED_ELSEWHERE[name]):
            raise ValueError(
                f"{name}={value!r} is not supported: this implementation of LLaDA2.x computes as "
                f"with {name}={FIXED_ELSEWHERE[name]!r}"
            )
        if name in _SAME_AS and not _same(name, value, _SAME_AS[name](config)):
            raise ValueError(
                f"{name}={value!r} contradicts the other keys of this config, which give "
                f"{_SAME_AS[name](config)!r}: remove {name} or mend the others"
            )
    unknown = sorted(name for name, value in extra.items() if value and not _known(name))
    for name in filter(_SUSPICIOUS.search, unknown):
        raise ValueError(
            f"{name}={extra[name]!r} is no key of LLaDA2.x and may change what is computed: remove "
            "it from the config if it does not"
        )
    if unknown:
        warnings.warn(
            f"config keys that LLaDA2.x does not have are ignored: {', '.join(unknown)}",
            stacklevel=4,
        )


def _same(name: str, value: Any, expected: Any) -> bool:
    if name == "router_dtype":
        return value in ("fp32", "float32")
    if expected is None:  # nothing, an empty list, or 1 for every layer
        return not value or (isinstance(value, list) and all(item == 1 for item in value))
    numbers = (int, float)
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, numbers) and isinstance(expected, numbers):
        return math.isclose(value, expected, rel_tol=1e-9)
    return value == expected


def _known(name: str) -> bool:
    return (
        name in _INERT
        or name in FIXED
        or name in FIXED_ELSEWHERE
        or name in _SAME_AS
        or name in PreTrainedConfig.__dataclass_fields__
        or name in GenerationConfig._get_default_generation_params()
    )
