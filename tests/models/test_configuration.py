"""Published shapes and files, what a config may say, and values that cannot be honoured."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from torch._subclasses import FakeTensor, FakeTensorMode
from transformers import AutoConfig, Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.models.llada2.conversion import fused_shapes, hub_shapes, merged_shapes
from fastedit.models.llada2.rotary import rotary_tables

HUB_CONFIGS = ["dfactory_flash", "dfactory_mini", "dmax_math_16b", "llada20_uni", "llada21_mini"]
MINI, FLASH, UNI = (14813, 16_255_638_528), (24161, 102_889_697_280), (14813, 16_322_747_392)


@pytest.fixture(params=HUB_CONFIGS)
def published(request, golden_folder):
    return golden_folder / "hub_configs" / f"{request.param}.json"


def sizes_of(config) -> tuple[int, int]:
    with torch.device("meta"):
        model = LLaDA2MoeModelLM(config)
    shapes = hub_shapes(config)
    in_memory = sum(tensor.numel() for tensor in model.state_dict().values())
    for names in (shapes, merged_shapes(config), fused_shapes(config)):
        assert sum(torch.Size(shape).numel() for shape in names.values()) == in_memory
    return len(shapes), sum(p.numel() for p in model.parameters())


def test_published_files_have_the_published_sizes(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = AutoConfig.from_pretrained(published)
    assert isinstance(config, LLaDA2MoeConfig)
    expected = FLASH if "flash" in published.stem else UNI if "uni" in published.stem else MINI
    assert sizes_of(config) == expected
    assert config.rotary_dim == 64 and config.block_size == 32
    assert config.model_type == json.loads(published.read_text())["model_type"]


@pytest.mark.parametrize(
    "config,sizes", [(LLaDA2MoeConfig.mini(), MINI), (LLaDA2MoeConfig.flash(), FLASH)]
)
def test_named_shapes_have_the_published_sizes(config, sizes):
    assert sizes_of(config) == sizes


@pytest.mark.parametrize("read", [AutoConfig.from_pretrained, LLaDA2MoeConfig.from_pretrained])
def test_a_saved_config_has_every_key_that_was_read(published, tmp_path, read):
    config = read(published)
    config.save_pretrained(tmp_path)
    hub, saved = (json.loads(f.read_text()) for f in (published, tmp_path / "config.json"))
    for key in hub.keys() - {"transformers_version"}:
        assert saved[key] == hub[key], key
    assert read(tmp_path).to_diff_dict() == config.to_diff_dict()
    as_dictionary = LLaDA2MoeConfig.from_dict(hub)
    for other in (as_dictionary, LLaDA2MoeConfig(**hub)):
        assert other.to_diff_dict() == config.to_diff_dict()


def test_missing_keys_and_nulls_take_the_published_values():
    nulls = dict.fromkeys(("num_experts", "rope_theta", "norm_head", "sliding_window"))
    for config in (
        LLaDA2MoeConfig.from_dict({"model_type": "llada2_moe"}),
        LLaDA2MoeConfig(**nulls, rope_parameters=None, head_dim=None, partial_rotary_factor=None),
    ):
        assert (config.num_experts, config.n_group, config.rope_theta) == (256, 8, 600000.0)
        assert config.rotary_dim == 64 and config.head_dim == 128
        assert config.block_size == 32 and config.expert_capacity is None
    assert LLaDA2MoeConfig(hidden_size=64, num_attention_heads=4, head_dim=None).head_dim == 16


def test_only_a_block_size_that_was_given_is_saved():
    for given in (32, 8):
        config = LLaDA2MoeConfig(block_size=given)
        assert config.to_dict()["block_size"] == given == config.trained_block_size
    assert "block_size" not in LLaDA2MoeConfig().to_dict()
    assert LLaDA2MoeConfig().trained_block_size is None


PLAIN = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_parameters": PLAIN},
        {"rope_scaling": PLAIN},
        {"rope_theta": 10000, "partial_rotary_factor": 1, "rope_scaling": {"type": "default"}},
        {"rope_theta": 10000.0, "rope_parameters": PLAIN, "rotary_dim": 128},
        {"rope_parameters": {**PLAIN, "type": "default", "factor": 1.0, "mrope_section": None}},
        {"rope_scaling": {"type": None}, "rope_parameters": PLAIN},
    ],
)
def test_default_rope_is_read_in_every_spelling(keys):
    config = LLaDA2MoeConfig(**keys)
    assert (config.rope_theta, config.rotary_dim, config.rope_type) == (10000.0, 128, "default")
    assert LLaDA2MoeConfig(**config.to_dict()).to_dict() == config.to_dict()


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SCALED = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.0},
    YARN,
    {**YARN, "attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
]


@pytest.mark.parametrize("rope", SCALED)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters", "type"])
@pytest.mark.parametrize("length", [256, 400])
def test_scaled_rope_is_that_of_transformers(rope, spelling, length):
    shape = {"head_dim": 32, "max_position_embeddings": 256}
    given = dict(rope)
    if spelling == "type":
        given["type"] = given.pop("rope_type")
    key = "rope_parameters" if spelling == "rope_parameters" else "rope_scaling"
    config = LLaDA2MoeConfig(**shape, rope_theta=10000.0, partial_rotary_factor=1.0, **{key: given})
    assert LLaDA2MoeConfig(**config.to_dict()).rope == config.rope
    positions = torch.arange(length)[None]
    cos, sin = rotary_tables(config, positions, torch.float32, length)
    theirs = Qwen3Config(**shape, rope_parameters={"rope_theta": 10000.0, **rope})
    expected = Qwen3RotaryEmbedding(theirs)(torch.zeros(1), positions)
    for ours, table in zip((cos, sin), expected, strict=True):
        torch.testing.assert_close(ours[:, 0], table[..., :16], rtol=1e-5, atol=1e-5)
    plain = LLaDA2MoeConfig(**shape, rope_theta=10000.0, partial_rotary_factor=1.0)
    same = torch.equal(cos, rotary_tables(plain, positions, torch.float32, length)[0])
    assert same == (rope["rope_type"] == "dynamic" and length <= 256)


@pytest.mark.parametrize("rope", [None, {"type": "linear", "factor": 1.25}])
def test_frequencies_of_a_trace_or_of_fake_tensors_are_not_kept(rope):
    config = LLaDA2MoeConfig(rope_scaling=rope, rope_theta=1234.5)

    class Tables(torch.nn.Module):
        def forward(self, positions):
            return rotary_tables(config, positions, torch.float32, positions.shape[1])

    positions = torch.arange(8)[None]
    with FakeTensorMode():
        assert isinstance(Tables()(torch.arange(8)[None])[0], FakeTensor)
    exported = torch.export.export(Tables(), (positions,)).module()(positions)
    eager = Tables()(positions)
    assert type(eager[0]) is torch.Tensor
    torch.testing.assert_close(exported, eager)


@pytest.mark.parametrize("rope", [None, {"type": "linear", "factor": 1.25}])
def test_frequencies_are_made_once_and_serve_training(rope):
    config, positions = LLaDA2MoeConfig(rope_scaling=rope, rope_theta=4321.0), torch.arange(8)[None]
    with torch.inference_mode():
        rotary_tables(config, positions, torch.float32, 8)
    with torch.profiler.profile() as profile:
        cos, _ = rotary_tables(config, positions, torch.float32, 8)
    assert not {"aten::pow", "aten::reciprocal"} & {event.name for event in profile.events()}
    x = torch.ones(8, cos.shape[-1], requires_grad=True)
    (x * cos).sum().backward()
    assert torch.equal(x.grad, cos[0, 0])


def test_overrides_are_checked_with_the_rest(published):
    assert (
        LLaDA2MoeConfig.from_pretrained(published, num_experts_per_tok=4).num_experts_per_tok == 4
    )
    with pytest.raises(ValueError, match=r"rotary_dim=64 contradicts"):
        LLaDA2MoeConfig.from_dict({"rotary_dim": 64}, partial_rotary_factor=1.0)


def test_a_key_that_nobody_knows_brings_a_warning():
    with pytest.warns(UserWarning, match="ignored: made_by, other$"):
        LLaDA2MoeConfig(other=1, made_by="somebody", new_attention=False, unset=None, off=False)


def test_what_is_set_later_is_saved(golden):
    config = LLaDA2MoeConfig.from_pretrained(golden)
    config.block_size, config.partial_rotary_factor = 8, 0.25
    again = LLaDA2MoeConfig(**config.to_dict())
    assert again.block_size == again.trained_block_size == 8 and again.rotary_dim == 4
    config = LLaDA2MoeConfig(rope_parameters=dict(PLAIN), rope_scaling=None)
    config.rope_theta = 5e5
    assert config.rope["rope_theta"] == 5e5
    again = LLaDA2MoeConfig(**config.to_dict())
    assert again.rope == config.rope and again.rope_parameters == {**PLAIN, "rope_theta": 5e5}


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "qwen3_moe"},
        {"score_function": "softmax"},
        {"scoring_func": "softmax"},
        {"use_bias": True},
        {"attention_bias": True},
        {"use_qk_norm": False},
        {"qk_layernorm": False},
        {"tie_word_embeddings": True},
        {"norm_head": True},
        {"norm_softmax": True},
        {"use_rmsnorm": False},
        {"using_split_qkv_in_self_attention": True},
        {"attention_dropout": 0.1},
        {"embedding_dropout": 0.1},
        {"resid_pdrop": 0.1},
        {"router_dtype": "bf16"},
        {"use_sliding_window": True},
        {"layer_types": ["sliding_attention"] * 20},
        {"final_logit_softcapping": 30.0},
        {"num_nextn_predict_layers": 1},
        {"n_routed_experts": 64},
        {"rotary_dim": 32},
        {"hidden_act": "swish2"},
        {"use_rope": False},
        {"pre_norm": False},
        {"rope_base": 10000.0},
        {"rotary_pct": 1.0},
        {"softmax_scale": 1.0},
        {"activation_function": "gelu"},
        {"window_size": 128},
        {"moe_router_score_fn": "softmax"},
        {"new_attention": {"kind": "linear"}},
        {"rms_norm_eps": math.nan},
        {"rms_norm_eps": 0.0},
        {"routed_scaling_factor": math.inf},
        {"eos_token_id": ["2"]},
        {"dtype": "bf16"},
        {"rope_parameters": "x"},
        {"hidden_size": "2048"},
        {"hidden_size": 2048.0},
        {"use_bias": 0},
        {"rms_norm_eps": "1e-6"},
        {"rope_scaling": "yarn"},
        {"num_key_value_heads": 3},
        {"n_group": 7},
        {"n_group": 256},
        {"topk_group": 9},
        {"num_experts_per_tok": 129},
        {"num_shared_experts": 0},
        {"expert_capacity": 7},
        {"expert_capacity": 257},
        {"block_size": 0},
        {"hidden_size": -1},
        {"partial_rotary_factor": 0.0},
        {"first_k_dense_replace": 21},
    ],
)
def test_what_cannot_be_honoured_is_named(keys):
    (key,) = keys
    with pytest.raises(ValueError, match=key):
        LLaDA2MoeConfig(**keys)
    with pytest.raises(ValueError, match=key):
        LLaDA2MoeConfig.from_dict(keys)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rope_scaling": {"type": "yarn"}}, "rope_type='yarn' needs factor in rope_scaling"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "'longrope'.* known: "),
        ({"rope_parameters": {"type": "ntk"}}, "'ntk'"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "contradicts"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor .* at least 1; got 0.5"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor .* got '2'"),
        ({"rope_scaling": {"type": "default", "factor": 2.0}}, "factor=2.0"),
        ({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}, "mrope_section"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 1000.0}}, "alpha=1000.0"),
        ({"rope_parameters": {"full_attention": PLAIN}}, "full_attention"),
        (
            {"rope_theta": 5000.0, "rope_parameters": PLAIN},
            "rope_theta=10000.0 .* contradicts 5000",
        ),
        (
            {"rope_scaling": YARN, "rope_parameters": {**YARN, "factor": 2.0}},
            "factor=2.0 .* contradicts 4.0",
        ),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_scaling": {"type": ["yarn"]}}, r"rope_type=\['yarn'\]"),
        (
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 0}},
            "original_max_position_embeddings .* at least 1; got 0",
        ),
        ({"rope_scaling": {**SCALED[-1], "low_freq_factor": 4.0}}, "low_freq_factor=4.0 must be"),
    ],
)
def test_rope_that_cannot_be_honoured_is_named(keys, words):
    with pytest.raises(ValueError, match=words):
        LLaDA2MoeConfig(**keys)
