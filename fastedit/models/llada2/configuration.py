"""Configuration of LLaDA2.x: the Hub's `config.json` keys with the published values as defaults."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What the released checkpoints all share and this implementation relies on.
_REQUIRED: dict[str, object] = {
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "norm_topk_prob": True,
    "score_function": "sigmoid",
    "router_dtype": "fp32",
    "moe_router_enable_expert_bias": True,
    "rope_scaling": None,
}


@strict
class LLaDA2MoeConfig(PreTrainedConfig):
    """Shape and routing of a LLaDA2.x mixture-of-experts model; the defaults describe mini (16B).

    `block_size` is the length in tokens of a diffusion block, used for default attention masks and
    for block routing. `expert_capacity` switches block routing on (LLaDA2.2): the number of experts
    admitted per block. `mask_token_id` is not in the published files and may be supplied here.

    Raises ValueError for a value this implementation cannot honour, naming the key.
    """

    model_type = "llada2_moe"
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
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = False
    tie_word_embeddings: bool = False
    rope_theta: float | int = 600000.0
    partial_rotary_factor: float | int = 0.5
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
    block_size: int = 32
    expert_capacity: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mask_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # The code a checkpoint points at is never run, so the pointer is not carried along either.
        kwargs.pop("auto_map", None)
        rope = kwargs.pop("rope_parameters", None)
        if rope:
            self.rope_theta = rope.get("rope_theta", self.rope_theta)
            self.partial_rotary_factor = rope.get(
                "partial_rotary_factor", self.partial_rotary_factor
            )
            if rope.get("rope_type", "default") != "default":
                self.rope_scaling = rope
        super().__post_init__(**kwargs)
        self._check_required()
        self._check_shapes()
        self._check_routing()

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
    def rotary_dim(self) -> int:
        """Leading dimensions of each head that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    def _check_required(self) -> None:
        for name, value in _REQUIRED.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not supported: "
                    f"LLaDA2.x checkpoints have {name}={value!r}"
                )

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
