"""Hub checkpoints: one tensor per expert on disk, fused experts in memory, nothing left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from fastedit.models.experts import FUSED, fuse
from fastedit.models.hub.strict import Shapes, compare

from .configuration import MODEL_TYPES, LLaDA2MoeConfig


def hub_shapes(config: LLaDA2MoeConfig) -> Shapes:
    """Name and shape of every tensor of a Hub checkpoint of this configuration."""
    hidden, head = config.hidden_size, config.head_dim
    queries = config.num_attention_heads * head
    keys = config.num_key_value_heads * head

    def mlp(name: str, size: int) -> Shapes:
        return {
            f"{name}.gate_proj.weight": (size, hidden),
            f"{name}.up_proj.weight": (size, hidden),
            f"{name}.down_proj.weight": (hidden, size),
        }

    shapes: Shapes = {
        "lm_head.weight": (config.vocab_size, hidden),
        "model.word_embeddings.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.attention.query_key_value.weight": (queries + 2 * keys, hidden),
            f"{layer}.attention.query_layernorm.weight": (head,),
            f"{layer}.attention.key_layernorm.weight": (head,),
            f"{layer}.attention.dense.weight": (hidden, queries),
        }
        if index < config.first_k_dense_replace:
            shapes |= mlp(f"{layer}.mlp", config.intermediate_size)
            continue
        shapes |= {
            f"{layer}.mlp.gate.weight": (config.num_experts, hidden),
            f"{layer}.mlp.gate.expert_bias": (config.num_experts,),
        }
        inner = config.moe_intermediate_size
        shapes |= mlp(f"{layer}.mlp.shared_experts", inner * config.num_shared_experts)
        for expert in range(config.num_experts):
            shapes |= mlp(f"{layer}.mlp.experts.{expert}", inner)
    return shapes


class FuseExperts(ConversionOps):
    """Experts of a layer into one tensor while a checkpoint loads."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **_,
    ) -> dict[str, Any]:
        parts = [input_dict.pop(name) for name in source_patterns if name in input_dict]
        return {target_patterns[0]: fuse(parts)}

    @property
    def reverse_op(self) -> ConversionOps:
        return SplitExperts()


class SplitExperts(ConversionOps):
    """The inverse of `FuseExperts`, always to one tensor per expert."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **_,
    ) -> dict[str, Any]:
        fused = input_dict[source_patterns[0]][0]
        names = [name for name in target_patterns if "*" in name]
        return {
            name.replace("*", str(expert)): tensor.contiguous()
            for name, part in zip(names, fused.chunk(len(names), dim=1), strict=True)
            for expert, tensor in enumerate(part)
        }

    @property
    def reverse_op(self) -> ConversionOps:
        return FuseExperts()


def _converter(target: str, sources: tuple[str, ...]) -> WeightConverter:
    patterns = [f"mlp.experts.*.{name}.weight" for name in sources]
    patterns += [f"mlp.experts.{name}" for name in sources]
    return WeightConverter(patterns, f"mlp.experts.{target}", operations=[FuseExperts()])


def register_conversions() -> None:
    """Have transformers convert the weights of our classes, also where it has another's for them.

    A class name goes before a model type; released code has the same names for both.
    """
    converters: list[Any] = [_converter(target, sources) for target, sources in FUSED.items()]
    for name in (*MODEL_TYPES, "LLaDA2MoeModel", "LLaDA2MoeModelLM"):
        register_checkpoint_conversion_mapping(name, converters, overwrite=True)


register_conversions()


def merged_shapes(config: LLaDA2MoeConfig) -> Shapes:
    """`hub_shapes` in the merged form, experts stacked in one tensor per projection (dFactory)."""
    merged: Shapes = {}
    for name, shape in hub_shapes(config).items():
        head, experts, tail = name.partition(".mlp.experts.")
        if experts:
            projection = tail.split(".")[1]
            merged[f"{head}{experts}{projection}"] = (config.num_experts, *shape)
        else:
            merged[name] = shape
    return merged


def fused_shapes(config: LLaDA2MoeConfig) -> Shapes:
    """`hub_shapes` as the model has them in memory: gate and up in one tensor per layer."""
    fused = merged_shapes(config)
    for name in [name for name in fused if name.endswith(".mlp.experts.gate_proj")]:
        experts, inner, hidden = fused.pop(name)
        del fused[name.replace("gate_proj", "up_proj")]
        fused[name.replace("gate_proj", "gate_up_proj")] = (experts, 2 * inner, hidden)
    return fused


def check_tensors(found: Mapping[str, tuple[int, ...]], config: LLaDA2MoeConfig) -> None:
    """Raise ValueError unless `found` is exactly what `config` describes, in one of three forms."""
    expected = hub_shapes(config)
    if any(name.endswith("mlp.experts.gate_up_proj") for name in found):
        expected = fused_shapes(config)
    elif any(name.endswith("mlp.experts.down_proj") for name in found):
        expected = merged_shapes(config)
    compare(found, expected, config.name_or_path)
