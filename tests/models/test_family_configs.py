"""Published sizes, on the meta device, and configs that contradict their family."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from family_cases import FAMILIES, GOLDEN, config_of
from transformers import Qwen3Config, Qwen3ForCausalLM

from fastedit import Decoder
from fastedit.models import Family, families
from fastedit.models.families import Checkpoints, family_of, row_of
from fastedit.models.hub.modeling import model_class

LLADA = {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288}
LLADA |= {"embedding_size": 126464, "vocab_size": 126464}
QWEN_7B = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4}
QWEN_7B |= {"intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
QWEN_2B = {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2}
QWEN_2B |= {"intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936}
SDAR = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}


def sdar(hidden: int, heads: int, inner: int, layers: int) -> dict[str, int]:
    sizes = {"hidden_size": hidden, "num_attention_heads": heads}
    return SDAR | sizes | {"intermediate_size": inner, "num_hidden_layers": layers}


# Published sizes, and parameters counted from them by hand.
SIZES = {
    "LLaDA 8B": ("llada", LLADA, 8_015_581_184),
    "Dream 7B": ("dream", QWEN_7B, 7_615_616_512),
    "SDAR 1.7B": ("sdar", sdar(2048, 16, 6144, 28), 2_031_739_904),
    "SDAR 4B": ("sdar", sdar(2560, 32, 9728, 36), 4_411_424_256),
    "SDAR 8B": ("sdar", sdar(4096, 32, 12288, 36), 8_190_735_360),
    "Fast-dLLM v2 7B": ("fast_dllm_v2", QWEN_7B, 7_615_616_512),
    "Fast-dLLM v2 1.5B": ("fast_dllm_v2", QWEN_2B | {"tie_word_embeddings": True}, 1_543_714_304),
}


def made(family: str, **changed):
    """The model of a family's golden config with some keys changed, without weights."""
    config = config_of(family) | changed
    layers = changed.get("num_hidden_layers")
    if layers and "layer_types" in config:
        config["layer_types"] = ["full_attention"] * layers
    kind = model_class(row_of(config), config["model_type"])
    with torch.device("meta"):
        return kind(kind.config_class.from_dict(config))


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_as_many_parameters_under_the_published_names(name):
    family, sizes, count = SIZES[name]
    model = made(family, **sizes)
    assert sum(p.numel() for p in model.parameters()) == count
    tiny = {n.replace(".0.", ".N.") for n in made(family).published_shapes() if ".1." not in n}
    published = model.published_shapes()
    found = {
        n.replace(".0.", ".N.") for n in published if not any(c in n for c in ".1. .2.".split())
    }
    layers = sizes.get("num_hidden_layers", sizes.get("n_layers"))
    per_layer = sum(".N." in n for n in found)
    assert {n for n in found if ".N." in n} == {n for n in tiny if ".N." in n}
    outside = {n for n in published if not any(part.isdigit() for part in n.split("."))}
    assert len(published) == layers * per_layer + len(outside)


# Beyond what a family computes with: the key, what it says, and of which family.
REFUSED = [
    *[("llada", "alibi", True), ("llada", "block_type", "sequential"), ("llada", "rope", False)],
    *[("llada", "layer_norm_type", "default"), ("llada", "attention_layer_norm", True)],
    *[("llada", "scale_logits", True), ("llada", "input_emb_norm", True)],
    *[("llada", "include_bias", True), ("llada", "include_qkv_bias", True)],
    *[("llada", "activation_type", "swiglu"), ("llada", "block_group_size", 2)],
    *[("llada", "multi_query_attention", True), ("llada", "clip_qkv", 8.0)],
    *[("llada", "rope_scaling", {"type": "linear", "factor": 2.0})],
    *[(family, "use_sliding_window", True) for family in ("dream", "sdar", "fast_dllm_v2")],
    *[("dream", "use_mrope", True), ("sdar", "num_experts", 128)],
    ("fast_dllm_v2", "layer_types", ["full_attention", "sliding_attention", "full_attention"]),
    *[
        ("llada_moe", "shared_expert_intermediate_size", 48),
        ("llada_moe", "moe_layer_freq", [0, 1]),
    ],
    *[("llada_moe", "moe_router_enable_expert_bias", True), ("llada_moe", "clip_qkv", 1.0)],
    *[("llada_moe", "moe_router_score_function", "sigmoid"), ("llada_moe", "qk_layernorm", False)],
    *[("llada_moe", "partial_rotary_factor", 0.5), ("llada_moe", "use_sliding_window", True)],
]


@pytest.mark.parametrize(("family", "key", "value"), REFUSED)
def test_what_contradicts_a_family_is_named(family, key, value, tmp_path):
    shutil.copy(GOLDEN / family / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_of(family) | {key: value}))
    with pytest.raises(ValueError) as caught:
        Decoder.from_pretrained(tmp_path)
    assert f"{key}={value!r} is not supported: " in str(caught.value)
    assert f"computed with {key}=" in str(caught.value) and "\n" not in str(caught.value)


def test_sizes_that_llada_leaves_to_others():
    config = made("llada", mlp_hidden_size=None, n_kv_heads=None, embedding_size=200).config
    assert (config.intermediate_size, config.num_key_value_heads) == (4 * 48, 4)
    assert (config.vocab_size, config.embedding_size) == (200, 200)
    assert config.to_diff_dict()["vocab_size"] == 192 and config.d_model == 48
    assert made("llada", embedding_size=None).config.vocab_size == 192


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_that_a_config_does_not_name_are_not_made_up(family):
    config = config_of(family)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config.pop(name, None)
    config = model_class(row_of(config)).config_class.from_dict(config)
    assert config.bos_token_id is config.eos_token_id is config.pad_token_id is None


def test_which_family_a_config_is_of():
    dense, experts = config_of("llada"), config_of("llada_moe")
    assert row_of(dense).name == "LLaDA" and row_of(experts).name == "LLaDA-MoE"
    for config, name in ((dense, "LLaDA"), (experts, "LLaDA-MoE")):  # by a key of theirs
        assert row_of(config | {"architectures": None}).name == name
        assert row_of(config | {"architectures": ["Mine"]}).name == name
    assert row_of(experts | {"model_type": "lladamoe"}).name == "LLaDA-MoE"
    assert row_of(config_of("dream") | {"model_type": "another"}).name == "Dream"
    assert row_of({"model_type": ["llada"]}) is None and row_of(None) is None


@pytest.mark.parametrize(
    "names", [{"model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"]}, {}]
)
def test_an_unknown_kind_names_those_that_are_known(names, tmp_path):
    shutil.copy(GOLDEN / "sdar" / "model.safetensors", tmp_path)
    config = {
        k: v for k, v in config_of("sdar").items() if k not in ("model_type", "architectures")
    }
    (tmp_path / "config.json").write_text(json.dumps(config | names))
    with pytest.raises(
        ValueError, match=r"LLaDA2\.x \(.*Dream.*SDAR.*families\.register"
    ) as caught:
        Decoder.from_pretrained(tmp_path)
    assert repr(names.get("model_type")) in str(caught.value)


def test_a_row_from_outside(tmp_path, monkeypatch):
    """A model of transformers' own under a name that it has already, decoded as its row says."""
    monkeypatch.setattr(families, "_ROWS", list(families._ROWS))
    family = Family(mask_token_id=7, block_length=4, policy="low_confidence:threshold=.9")
    families.register(
        Checkpoints(
            name="Mine",
            model_types=("qwen3",),
            architectures=("MineForDiffusion",),
            family=family,
            model="Qwen3ForCausalLM",
        )
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32}
    causal = Qwen3ForCausalLM(Qwen3Config(**sizes, eos_token_id=1))
    causal.save_pretrained(tmp_path)
    mine = Decoder.from_pretrained(tmp_path, device="cpu")
    assert type(mine.model).__name__ == "MineForDiffusion" and mine.family == family
    assert family_of(mine.model) == family
    assert (
        len(mine.generate(torch.arange(8, 14), max_new_tokens=8, eos_token_id=[]).sequences[0]) == 8
    )


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("dream", "hidden_act", "swoosh"),
        ("llada_moe", "hidden_act", "swoosh"),
        ("sdar", "rope_scaling", {"type": "spiral", "factor": 2.0}),
        ("dream", "rope_scaling", {"rope_type": "spiral", "factor": 2.0}),
        ("llada", "mask_token_id", "x"),
        ("sdar", "mask_token_id", -1),
        ("dream", "mask_token_id", 1.5),
    ],
)
def test_a_value_that_nobody_knows_is_named(family, key, value):
    with pytest.raises(ValueError, match=f"{key}=.*(swoosh|spiral|x|-1|1.5).*must be"):
        made(family, **{key: value})


@pytest.mark.parametrize("family", ["dream", "sdar", "fast_dllm_v2"])
def test_no_number_of_key_heads_is_that_of_the_query_heads(family):
    config = made(family, num_key_value_heads=None).config
    assert config.num_key_value_heads == config.num_attention_heads
