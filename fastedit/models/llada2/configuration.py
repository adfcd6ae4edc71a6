"""Configuration of LLaDA2.x: the Hub's `config.json` keys with the published values as defaults."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .config_keys import check_keys
from .rotary import ROPE_FIELDS, rope_parameters

# The Hub's name, and the one that the makers' trainer gives to checkpoints with merged experts.
MODEL_TYPES = ("llada2_moe", "llada2_moe_veomni")
BLOCK_SIZE = 32  # of all released checkpoints, whose files do not name it
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float | int": (float, int),
    "int | list[int]": (int, list),
    "bool": (bool,),
    "str": (str,),
    "dict": (dict,),
}


class LLaDA2MoeConfig(PreTrainedConfig):
    """Shape and routing of a LLaDA2.x mixture-of-experts model; the defaults describe mini (16B).

    `block_size` is the length in tokens of a diffusion block, used for default attention masks and
    for block routing; where it is not given it reads as 32, as released, and is not saved.
    `expert_capacity` switches block routing on (LLaDA2.2): the number of experts admitted per
    block. `mask_token_id` is not in the published files and may be supplied here.
    A null is a key that is not given: it takes the default; `head_dim` then follows from the
    hidden size and the heads. `rope_scaling` and `rope_parameters` may ask for the types in
    `rotary.SCALED`. A config is saved with the keys that it was made from.

    Raises ValueError for a value this implementation cannot honour, naming the key; warns of keys
    that it does not know (see `config_keys`).
    """

    model_type = MODEL_TYPES[0]
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 157184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-6
    use_cache: bool = False
    tie_word_embeddings: bool = False
    rope_theta: float | int | None = None
    partial_rotary_factor: float | int | None = None
    rope_scaling: dict | None = None
    use_bias: bool = False
    use_qkv_bias: bool = False
    use_qk_norm: bool = True
    use_sliding_window: bool = False
    first_k_dense_replace: int = 1
    moe_intermediate_size: int = 512
    num_experts: int = 256
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float | int = 2.5
    norm_topk_prob: bool = True
    score_function: str = "sigmoid"
    router_dtype: str = "fp32"
    moe_router_enable_expert_bias: bool = True
    block_size: int = None  # type: ignore[assignment]  # read as BLOCK_SIZE
    expert_capacity: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mask_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kind = kwargs.get("model_type") or self.model_type
        if kind not in MODEL_TYPES:
            raise ValueError(f"model_type={kind!r} is not LLaDA2.x ({', '.join(MODEL_TYPES)})")
        extra = dict(kwargs)
        self._says_torch_dtype = "torch_dtype" in extra
        self._says_block_size = self.block_size is not None
        _check_dtype(self.dtype)
        _check_dtype(kwargs.get("torch_dtype"))
        kwargs.pop("rotary_dim", None)  # follows from others, which `check_keys` holds it against
        rope = kwargs.pop("rope_parameters", None)
        # Set behind transformers' own reading of it, which would write its defaults into it.
        super().__post_init__(**kwargs)
        self.model_type = kind  # type: ignore[misc]
        if rope is not None:
            self.rope_parameters = rope
        self._fill_nulls()
        self._check_types()
        found = rope_parameters(
            self.rope_theta, self.partial_rotary_factor, self.rope_scaling, rope
        )
        self.rope_theta = found["rope_theta"]
        self.partial_rotary_factor = found["partial_rotary_factor"]
        self._check_shapes()
        self._check_routing()
        check_keys(self, extra)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in transformers, for either of the family's `MODEL_TYPES`."""
        found, _ = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        veomni = found.get("model_type") == LLaDA2MoeVeOmniConfig.model_type
        of: Any = LLaDA2MoeVeOmniConfig if veomni else cls
        return super(LLaDA2MoeConfig, of).from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but overrides among `kwargs` are checked with the rest."""
        fields = {field.name for field in dataclasses.fields(cls)} - {"dtype"}
        overrides = {name: kwargs.pop(name) for name in list(kwargs) if name in fields}
        try:
            return super().from_dict(config_dict | overrides, **kwargs)
        except (StrictDataclassError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"this config cannot be read: {' '.join(str(error).split())}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict() | {"model_type": self.model_type}
        del found["_says_torch_dtype"], found["_says_block_size"]
        found["rotary_dim"] = self.rotary_dim
        if self.trained_block_size is None:  # a default is no claim about the checkpoint
            del found["block_size"]
        for name in ("rope_scaling", "rope_parameters"):
            given = found.get(name) or {}
            given |= {key: getattr(self, key) for key in ROPE_FIELDS if given.get(key) is not None}
        return found

    def to_diff_dict(self) -> dict[str, Any]:
        found = super().to_diff_dict()
        if self._says_torch_dtype:  # readers before transformers 4.56 look at nothing else
            found["torch_dtype"] = found["dtype"]
        return found

    @classmethod
    def mini(cls, **overrides: Any) -> LLaDA2MoeConfig:
        """LLaDA2.x-mini: 16,255,638,528 parameters."""
        special = {"pad_token_id": 156892, "eos_token_id": 156892, "mask_token_id": 156895}
        return cls(**{**special, **overrides})

    @classmethod
    def flash(cls, **overrides: Any) -> LLaDA2MoeConfig:
        """LLaDA2.x-flash: 102,889,697,280 parameters."""
        shape = {
            "hidden_size": 4096,
            "intermediate_size": 9216,
            "moe_intermediate_size": 1024,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        }
        return cls.mini(**{**shape, **overrides})

    @property
    def trained_block_size(self) -> int | None:
        """`block_size` where the checkpoint names it, or somebody has set it."""
        said = self._says_block_size or self.block_size != BLOCK_SIZE
        return self.block_size if said else None

    @property
    def rotary_dim(self) -> int:
        """Leading dimensions of each head that rotate."""
        return int(self.head_dim * (self.partial_rotary_factor or 0.0))

    @property
    def rope(self) -> dict[str, Any]:
        """What the config says of rotary positions, in one dictionary; see `rotary`."""
        dictionaries = (self.rope_scaling, getattr(self, "rope_parameters", None))
        others = [
            {key: value for key, value in (given or {}).items() if key not in ROPE_FIELDS}
            for given in dictionaries
        ]
        return rope_parameters(self.rope_theta, self.partial_rotary_factor, *others)

    @property
    def rope_type(self) -> str:
        for given in (self.rope_scaling, getattr(self, "rope_parameters", None)):
            if given and (kind := given.get("rope_type", given.get("type"))):
                return kind
        return "default"

    def _fill_nulls(self) -> None:
        if self.head_dim is None and self.num_attention_heads and self.hidden_size:
            self.head_dim = self.hidden_size // self.num_attention_heads
        for field in _own_fields():
            if getattr(self, field.name) is None:
                setattr(self, field.name, field.default)
        if self.block_size is None:
            self.block_size = BLOCK_SIZE

    def _check_types(self) -> None:
        for field in _own_fields():
            name, kind, value = field.name, str(field.type), getattr(self, field.name)
            allowed = _KINDS[kind.removesuffix(" | None")]
            if value is not None and (
                not isinstance(value, allowed) or isinstance(value, bool) != (bool in allowed)
            ):
                raise ValueError(f"{name} must be {kind}; got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number; got {value!r}")
            if isinstance(value, list) and not all(type(item) is int for item in value):
                raise ValueError(f"{name} must hold integers; got {value!r}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is none of transformers' activations")

    def _check_shapes(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "moe_intermediate_size",
            "num_shared_experts",
            "block_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.rms_norm_eps <= 0:
            raise ValueError(f"rms_norm_eps must be positive, got {self.rms_norm_eps}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"head_dim={self.head_dim} times partial_rotary_factor="
                f"{self.partial_rotary_factor} must be even and in (0, head_dim]"
            )
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace={self.first_k_dense_replace} is outside "
                f"[0, num_hidden_layers={self.num_hidden_layers}]"
            )

    def _check_routing(self) -> None:
        experts, groups, top_k = self.num_experts, self.n_group, self.num_experts_per_tok
        if groups < 1 or experts % groups or experts // groups < 2:
            raise ValueError(
                f"num_experts={experts} must split into n_group={groups} groups of at least two"
            )
        if not 1 <= self.topk_group <= groups:
            raise ValueError(f"topk_group={self.topk_group} is outside [1, n_group={groups}]")
        if not 1 <= top_k <= self.topk_group * (experts // groups):
            raise ValueError(
                f"num_experts_per_tok={top_k} is outside [1, the "
                f"{self.topk_group * (experts // groups)} experts of {self.topk_group} groups]"
            )
        if self.expert_capacity is not None and not top_k <= self.expert_capacity <= experts:
            raise ValueError(
                f"expert_capacity={self.expert_capacity} is outside "
                f"[num_experts_per_tok={top_k}, num_experts={experts}]"
            )


class LLaDA2MoeVeOmniConfig(LLaDA2MoeConfig):
    """The same under the model type of the makers' trainer, for transformers' Auto classes."""

    model_type = MODEL_TYPES[1]


def _own_fields() -> list[dataclasses.Field]:
    theirs = PreTrainedConfig.__dataclass_fields__
    return [field for field in dataclasses.fields(LLaDA2MoeConfig) if field.name not in theirs]


def _check_dtype(dtype: Any) -> None:
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(known, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is none of torch's, such as bfloat16 or float32")
