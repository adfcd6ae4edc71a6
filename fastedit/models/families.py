"""What differs between models that decode by the same engine: a row of a table for each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

# A block that is as long as what is to be generated.
WHOLE = "max_new_tokens"
# What a model calls its head for the next token, and its config that there is one.
NEXT_HEAD = "next_token_head"
# What a model calls its output of logits of the next token, where it gives them itself.
NEXT_LOGITS = "next_logits"
# Tokens per block where nothing says how many.
BLOCK_LENGTH = 32


@dataclass(frozen=True)
class Family:
    """How a model reads its canvas.

    attention      "block_causal": a position sees its block and those before; "full": everything,
                   the masks of all blocks to come included
    shift          0: logits at a position are of its own token; 1: of the next one's
    blocks         "aligned": blocks begin at multiples of their length, the first one may hold the
                   prompt's tail; "after_prompt": the first one begins behind the prompt
    mask_token_id, block_length  None: as the model's config says. A block length of
                   "max_new_tokens" is one block for all that is generated, with full attention
    policy         rule that the model was released with, `name:field=value,...`
    """

    attention: str = "block_causal"
    shift: int = 0
    blocks: str = "aligned"
    mask_token_id: int | None = None
    block_length: int | str | None = None
    policy: str = "joint_threshold"

    _ALLOWED: ClassVar[dict[str, tuple]] = {
        "attention": ("block_causal", "full"),
        "shift": (0, 1),
        "blocks": ("aligned", "after_prompt"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self._ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be {' or '.join(map(repr, allowed))}; got {getattr(self, name)!r}"
                )
        if self.block_length not in (None, WHOLE) and not _is_length(self.block_length):
            raise ValueError(
                f'block_length must be an integer of at least 1 or "{WHOLE}"; '
                f"got {self.block_length!r}"
            )
        if self.block_length == WHOLE and self.attention != "full":
            raise ValueError(
                f'block_length="{WHOLE}" is for attention="full": what a block-causal model sees '
                "follows from a length in tokens"
            )
        if not isinstance(self.policy, str):
            raise TypeError(f"policy must be a name:field=value,...; got {self.policy!r}")

    @property
    def exact_cache(self) -> bool:
        """Whether keys and values of committed blocks can be kept without changing a result.

        With full attention all of them change in every forward. With a shift, the first logits of
        a block are of the row before it, which a forward of the block alone does not compute.
        """
        return self.attention != "full" and not self.shift


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """A row of the table: which checkpoints are of a family, and how they are read.

    name           of the family, for people
    model_types    what `model_type` in their config.json may be
    architectures  what `architectures` may name; the first one names the class that is made
    family         how they decode
    model          name of a class of transformers that computes the same, which a class of ours
                   is made from; or a function that returns a class to be used as it is
    marks          keys of the config that tell them from others of the same model type
    keys           key of the config.json -> what transformers' config calls the same
    weights        part of a tensor's name in the file -> part of its name in transformers, applied
                   in this order, and backwards to save
    weights_like   model type of transformers whose tensors are laid out on disk in the same way
    supported      key -> values that the class computes with; a config with another one is refused
    implied        keyword arguments of transformers' config, from the keys of the config.json
    tokenizer      class of transformers that reads their tokenizer, where they name code of theirs
    next_head      whether one may have a second head, which predicts the next token: ME-DLM's. It
                   is the one tensor of a file that no other name is for, with the first one's shape
    """

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    family: Family
    model: str | Callable[[], Any]
    marks: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    weights_like: str | None = None
    supported: Mapping[str, tuple] = field(default_factory=dict)
    implied: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    tokenizer: str | None = None
    next_head: bool = False

    def __post_init__(self) -> None:
        for key in ("model_types", "architectures"):
            names = getattr(self, key)
            listed = isinstance(names, (tuple, list)) and all(isinstance(n, str) for n in names)
            if not listed or not names:
                raise TypeError(f"{key} must be a tuple of one or more names; got {names!r}")
        if not isinstance(self.family, Family):
            raise TypeError(f"family must be a Family(...); got {self.family!r}")
        if not isinstance(self.model, str) and not callable(self.model):
            raise TypeError(
                f"model must be the name of a class of transformers, or a function that returns "
                f"a class; got {self.model!r}"
            )


def register(row: Checkpoints) -> Checkpoints:
    """Add a row to the table, before those that are there; returns it.

    Raises TypeError for what is no row, ValueError for a model that transformers does not have.
    """
    if not isinstance(row, Checkpoints):
        raise TypeError(f"register takes a row, Checkpoints(...); got {row!r:.80}")
    if isinstance(row.model, str):
        _check_model(row)
    _ROWS.insert(0, row)
    return row


def _check_model(row: Checkpoints) -> None:
    import transformers

    found = getattr(transformers, str(row.model), None)
    if not hasattr(found, "config_class") or not hasattr(found, "generate"):
        raise ValueError(
            f"{row.name}: model={row.model!r} names no model of transformers "
            f"{transformers.__version__} with a language-model head, such as "
            '"Qwen3ForCausalLM"; a function may return a class of your own'
        )


def row_of(config: Any) -> Checkpoints | None:
    """The row that a config.json, or the config of a model, is of; None for an unknown kind.

    `architectures` says more than `model_type`, of which two families may have the same; where it
    is no help, a key that only one of them has tells.
    """
    get = config.get if isinstance(config, Mapping) else lambda key: getattr(config, key, None)
    kind, names = get("model_type"), get("architectures")
    names = names if isinstance(names, (list, tuple)) else ()
    of_kind = [row for row in _ROWS if kind in row.model_types]
    for row in [*of_kind, *_ROWS]:
        if any(name in row.architectures for name in names):
            return row
    for row in sorted(of_kind, key=lambda row: not row.marks):
        if all(get(mark) is not None for mark in row.marks):
            return row
    return None


def family_of(model: Any) -> Family:
    """The family of `model`; without a known one that of LLaDA2.x, block by block.

    A mask that the model's config names goes before that of the table, and a model with a head for
    the next token was released with the rule that needs it.
    """
    config = getattr(model, "config", None)
    row = row_of(config)
    if row is None:
        return Family()
    family = row.family
    if getattr(config, "mask_token_id", None) is not None:
        family = replace(family, mask_token_id=None)
    if row.next_head and getattr(config, NEXT_HEAD, False):
        family = replace(family, policy="me_dlm")
    return family


def named_block_length(family: Family, config: Any) -> int | str | None:
    """Tokens per block as `family` says, then `config`; None where neither does.

    Raises ValueError for a `block_size` of the config that is no length.
    """
    if family.block_length is not None:
        return family.block_length
    size = getattr(config, "block_size", None)
    if size is not None and not _is_length(size):
        raise ValueError(
            f"block_size={size!r} of the model's config must be an integer of at least 1, such as "
            f"{BLOCK_LENGTH}"
        )
    return size


def block_length(family: Family, config: Any) -> int | str:
    """The same, and `BLOCK_LENGTH` where neither says one."""
    return named_block_length(family, config) or BLOCK_LENGTH


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def known_kinds() -> str:
    """What can be loaded, and how to add to it, in a line."""
    kinds = ", ".join(f"{row.name} ({', '.join(row.model_types)})" for row in _ROWS)
    return (
        f"known are {kinds}; fastedit.models.families.register adds a row for another one, see "
        "docs/families.md"
    )


def _llada2() -> Any:
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    return LLaDA2MoeModelLM


def _llada_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that LLaDA's config may leave to others."""
    found: dict[str, Any] = {"attention_bias": False, "mlp_bias": False}
    if config.get("mlp_hidden_size") is None and config.get("d_model") is not None:
        found["intermediate_size"] = int(config.get("mlp_ratio", 4) * config["d_model"])
    if config.get("embedding_size") is None and "vocab_size" in config:
        found["vocab_size"] = config["vocab_size"]
    return found | _eps(config)


def _eps(config: Mapping[str, Any]) -> dict[str, Any]:
    """The default of LLaDA's released configs, which is not that of transformers."""
    return {} if config.get("rms_norm_eps") is not None else {"rms_norm_eps": 1e-5}


# As the rotations of Qwen2 and Qwen3 are made; scaled ones are transformers' own.
_QWEN = {
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "layer_types": ("full_attention",),
    "num_experts": (0,),
}

_LLADA = Family(
    attention="full",
    blocks="after_prompt",
    block_length=32,
    policy="low_confidence:threshold=1,steps=none",
)

_ROWS = [
    Checkpoints(
        name="LLaDA2.x",
        model_types=("llada2_moe", "llada2_moe_veomni"),
        architectures=("LLaDA2MoeModelLM",),
        family=Family(),
        model=_llada2,
    ),
    Checkpoints(
        name="LLaDA",
        model_types=("llada",),
        architectures=("LLaDAModelLM",),
        family=_LLADA,
        model="LlamaForCausalLM",
        keys={
            "d_model": "hidden_size",
            "n_heads": "num_attention_heads",
            "n_kv_heads": "num_key_value_heads",
            "n_layers": "num_hidden_layers",
            "mlp_hidden_size": "intermediate_size",
            "embedding_size": "vocab_size",
            "max_sequence_length": "max_position_embeddings",
            "activation_type": "hidden_act",
            "weight_tying": "tie_word_embeddings",
        },
        weights={
            "model.transformer.wte.": "model.embed_tokens.",
            "model.transformer.ln_f.": "model.norm.",
            "model.transformer.ff_out.": "lm_head.",
            "model.transformer.blocks.": "model.layers.",
            ".attn_norm.": ".input_layernorm.",
            ".ff_norm.": ".post_attention_layernorm.",
            ".q_proj.": ".self_attn.q_proj.",
            ".k_proj.": ".self_attn.k_proj.",
            ".v_proj.": ".self_attn.v_proj.",
            ".attn_out.": ".self_attn.o_proj.",
            ".ff_proj.": ".mlp.gate_proj.",
            ".up_proj.": ".mlp.up_proj.",
            ".ff_out.": ".mlp.down_proj.",
        },
        supported={
            "block_type": ("llama",),
            "block_group_size": (1,),
            "activation_type": ("silu",),
            "layer_norm_type": ("rms",),
            "layer_norm_with_affine": (True,),
            "bias_for_layer_norm": (False,),
            "attention_layer_norm": (False,),
            "include_bias": (False,),
            "include_qkv_bias": (False,),
            "multi_query_attention": (False,),
            "rope": (True,),
            "rope_scaling": (),
            "alibi": (False,),
            "clip_qkv": (),
            "input_emb_norm": (False,),
            "scale_logits": (False,),
        },
        implied=_llada_sizes,
        next_head=True,
    ),
    Checkpoints(
        name="LLaDA-MoE",
        model_types=("llada", "lladamoe"),
        architectures=("LLaDAMoEModelLM",),
        family=_LLADA,
        model="Qwen3MoeForCausalLM",
        marks=("num_experts",),
        keys={"expert_intermediate_size": "moe_intermediate_size"},
        weights_like="qwen3_moe",
        supported={
            "moe_layer_freq": (1,),
            "shared_expert_intermediate_size": (0,),
            "moe_router_enable_expert_bias": (False,),
            "moe_router_score_function": ("softmax",),
            "qk_layernorm": (True,),
            "partial_rotary_factor": (1,),
            "clip_qkv": (),
            "use_sliding_window": (False,),
        },
        # The released code never renormalises, whatever its config says.
        implied=lambda config: {
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            **_eps(config),
        },
    ),
    Checkpoints(
        name="Dream",
        model_types=("Dream",),
        architectures=("DreamModel",),
        family=Family(
            attention="full",
            shift=1,
            blocks="after_prompt",
            block_length=WHOLE,
            policy="low_confidence:rank=entropy,schedule=dream",
        ),
        model="Qwen2ForCausalLM",
        supported=_QWEN,
        tokenizer="Qwen2Tokenizer",
    ),
    Checkpoints(
        name="SDAR",
        model_types=("sdar",),
        architectures=("SDARForCausalLM",),
        family=Family(policy="low_confidence:threshold=.95"),
        model="Qwen3ForCausalLM",
        supported=_QWEN,
        tokenizer="Qwen2Tokenizer",
    ),
    Checkpoints(
        name="Fast-dLLM v2",
        model_types=("Fast_dLLM_Qwen",),
        architectures=("Fast_dLLM_QwenForCausalLM",),
        family=Family(
            shift=1, mask_token_id=151665, policy="low_confidence:threshold=1,steps=none"
        ),
        model="Qwen2ForCausalLM",
        keys={"bd_size": "block_size"},
        supported=_QWEN,
        implied=lambda config: {} if config.get("bd_size") else {"block_size": 32},
        tokenizer="Qwen2Tokenizer",
    ),
]
