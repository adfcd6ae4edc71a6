"""Published shapes, Hub files, and values that cannot be honoured."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.models.llada2.conversion import hub_shapes, merged_shapes


@pytest.mark.parametrize(
    "config,tensors,parameters",
    [
        (LLaDA2MoeConfig.mini(), 14813, 16_255_638_528),
        (LLaDA2MoeConfig.flash(), 24161, 102_889_697_280),
    ],
    ids=["mini", "flash"],
)
def test_published_sizes(config, tensors, parameters):
    with torch.device("meta"):
        model = LLaDA2MoeModelLM(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    shapes = hub_shapes(config)
    assert len(shapes) == tensors
    in_memory = sum(tensor.numel() for tensor in model.state_dict().values())
    for names in (shapes, merged_shapes(config)):
        assert sum(torch.Size(shape).numel() for shape in names.values()) == in_memory


def test_missing_keys_take_the_published_values():
    config = LLaDA2MoeConfig.from_dict({"model_type": "llada2_moe"})
    assert (config.num_experts, config.n_group, config.rope_theta) == (256, 8, 600000.0)
    assert config.rotary_dim == 64 and config.block_size == 32 and config.expert_capacity is None


def test_hub_keys_survive_a_round_trip(golden, tmp_path):
    LLaDA2MoeConfig.from_pretrained(golden).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    hub = json.loads((golden / "config.json").read_text())
    assert "auto_map" not in saved
    for key in hub.keys() - {"auto_map", "torch_dtype", "architectures"}:
        assert saved[key] == hub[key], key
    assert type(AutoConfig.from_pretrained(tmp_path)) is LLaDA2MoeConfig


def test_rope_parameters_of_newer_files_are_read():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    config = LLaDA2MoeConfig(rope_parameters=rope)
    assert config.rope_theta == 10000.0 and config.rotary_dim == 128
    with pytest.raises(ValueError, match="rope_scaling"):
        LLaDA2MoeConfig(rope_parameters={**rope, "rope_type": "yarn", "factor": 4.0})


@pytest.mark.parametrize(
    "key,value",
    [
        ("score_function", "softmax"),
        ("use_bias", True),
        ("use_qk_norm", False),
        ("tie_word_embeddings", True),
        ("rope_scaling", {"type": "yarn"}),
        ("num_key_value_heads", 3),
        ("n_group", 7),
        ("n_group", 256),
        ("topk_group", 9),
        ("num_experts_per_tok", 129),
        ("expert_capacity", 7),
        ("expert_capacity", 257),
        ("block_size", 0),
        ("hidden_size", -1),
        ("partial_rotary_factor", 0.0),
        ("first_k_dense_replace", 21),
    ],
)
def test_bad_values_are_named(key, value):
    with pytest.raises(ValueError, match=key):
        LLaDA2MoeConfig(**{key: value})
