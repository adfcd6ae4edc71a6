"""Hub checkpoints in and out, and everything a loader must refuse."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fastedit import Decoder
from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModel, LLaDA2MoeModelLM
from fastedit.models.llada2.conversion import hub_shapes, merged_shapes
from fastedit.models.load import TINY


@pytest.fixture
def copy(golden, tmp_path):
    """A writable copy of the golden checkpoint and a function that rewrites its tensors."""
    shutil.copy(golden / "config.json", tmp_path)

    def write(change) -> str:
        tensors = load_file(golden / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return str(tmp_path)

    return write


def assert_same_tensors(left, right) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype and torch.equal(tensor, right[name]), name


def merge(tensors) -> None:
    """The merged form: one tensor per projection, no `.weight`."""
    for name in [name for name in tensors if ".experts.0." in name]:
        head, tail = name.split(".experts.0.")
        rows = [tensors.pop(f"{head}.experts.{e}.{tail}") for e in range(8)]
        tensors[f"{head}.experts.{tail.removesuffix('.weight')}"] = torch.stack(rows)


@pytest.mark.parametrize("factory", [LLaDA2MoeModelLM, AutoModelForCausalLM])
def test_round_trip_is_bit_for_bit(golden, tmp_path, factory):
    model = factory.from_pretrained(golden)
    assert type(model) is LLaDA2MoeModelLM and type(model.config) is LLaDA2MoeConfig
    model.save_pretrained(tmp_path)
    original = load_file(golden / "model.safetensors")
    assert_same_tensors(load_file(tmp_path / "model.safetensors"), original)
    assert {name: tuple(tensor.shape) for name, tensor in original.items()} == hub_shapes(
        model.config
    )
    again = LLaDA2MoeModelLM.from_pretrained(tmp_path)
    assert_same_tensors(again.state_dict(), model.state_dict())


def test_sharded_round_trip(golden, tmp_path):
    LLaDA2MoeModelLM.from_pretrained(golden).save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    found = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert_same_tensors(found, load_file(golden / "model.safetensors"))
    LLaDA2MoeModelLM.from_pretrained(tmp_path)


def test_a_new_model_saves_hub_names(tmp_path, golden):
    config = LLaDA2MoeConfig.from_pretrained(golden)
    LLaDA2MoeModelLM(config).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == hub_shapes(config)


def test_merged_experts_load_and_save_per_expert(golden, copy, tmp_path):
    path = copy(merge)
    merged = load_file(tmp_path / "model.safetensors")
    config = LLaDA2MoeConfig.from_pretrained(golden)
    assert {name: tuple(t.shape) for name, t in merged.items()} == merged_shapes(config)
    model = LLaDA2MoeModelLM.from_pretrained(path)
    assert_same_tensors(model.state_dict(), LLaDA2MoeModelLM.from_pretrained(golden).state_dict())
    model.save_pretrained(tmp_path / "saved")
    assert_same_tensors(
        load_file(tmp_path / "saved" / "model.safetensors"),
        load_file(golden / "model.safetensors"),
    )


def test_bf16_keeps_the_bias_in_fp32(golden, copy, tmp_path):
    model = LLaDA2MoeModelLM.from_pretrained(golden, dtype=torch.bfloat16)
    bias = model.model.layers[1].mlp.gate.expert_bias
    original = load_file(golden / "model.safetensors")["model.layers.1.mlp.gate.expert_bias"]
    assert bias.dtype == torch.float32 and torch.equal(bias, original)
    assert model.lm_head.weight.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved["model.layers.1.mlp.gate.expert_bias"].dtype == torch.float32

    def half(tensors):
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    older = LLaDA2MoeModelLM.from_pretrained(copy(half), dtype=torch.bfloat16)
    assert older.model.layers[1].mlp.gate.expert_bias.dtype == torch.float32


def test_load_state_dict_takes_hub_names(golden):
    model = LLaDA2MoeModelLM(LLaDA2MoeConfig.from_pretrained(golden))
    result = model.load_state_dict(load_file(golden / "model.safetensors"))
    assert not result.missing_keys and not result.unexpected_keys
    expected = LLaDA2MoeModelLM.from_pretrained(golden)
    assert_same_tensors(model.state_dict(), expected.state_dict())
    model.load_state_dict(expected.state_dict())


def test_base_model_loads_and_saves(golden, tmp_path):
    model = AutoModel.from_pretrained(golden)
    assert type(model) is LLaDA2MoeModel
    model.save_pretrained(tmp_path)
    again = LLaDA2MoeModel.from_pretrained(tmp_path)
    assert_same_tensors(again.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"missing: .*lm_head\.weight"):
        LLaDA2MoeModelLM.from_pretrained(tmp_path)


EXPERT = "model.layers.2.mlp.experts.5.up_proj.weight"


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.pop(EXPERT), f"missing: {EXPERT}"),
        (lambda t: t.pop("model.norm.weight"), "missing: model.norm.weight"),
        (lambda t: t.pop("model.layers.1.mlp.gate.expert_bias"), "missing: .*expert_bias"),
        (lambda t: t.update({EXPERT: torch.zeros(32, 63)}), f"wrong shape: {EXPERT}"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown: extra"),
        (
            lambda t: t.update({EXPERT.replace(".5.", ".8."): torch.zeros(32, 64)}),
            r"unknown: .*experts\.8\.up_proj",
        ),
        (
            lambda t: t.update({"model.layers.1.mlp.experts.down_proj": torch.zeros(8, 64, 32)}),
            "unknown: .*experts.0",
        ),
    ],
)
def test_wrong_tensors_are_named(copy, change, message):
    with pytest.raises(ValueError, match=message):
        LLaDA2MoeModelLM.from_pretrained(copy(change))


def test_a_tensor_in_two_shards_is_refused(golden, tmp_path):
    LLaDA2MoeModelLM.from_pretrained(golden).save_pretrained(tmp_path, max_shard_size="100KB")
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: load_file(first)[name]}, second)
    with pytest.raises(ValueError, match="more than one file"):
        LLaDA2MoeModelLM.from_pretrained(tmp_path)


def test_pickles_are_not_asked_for(golden):
    with pytest.raises(ValueError, match="safetensors only"):
        LLaDA2MoeModelLM.from_pretrained(golden, use_safetensors=False)


def test_code_in_a_checkpoint_is_not_run(golden, copy, tmp_path):
    path = copy(lambda tensors: None)
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    for module in ("configuration_llada2_moe", "modeling_llada2_moe"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('ran remote code')\n")
    model = AutoModelForCausalLM.from_pretrained(path)
    assert type(model) is LLaDA2MoeModelLM
    assert type(Decoder.from_pretrained(path).model) is LLaDA2MoeModelLM
    assert type(LLaDA2MoeModelLM.from_pretrained(path, subfolder=None)) is LLaDA2MoeModelLM


HUB_CONFIGS = ["dfactory_flash", "dfactory_mini", "dmax_math_16b", "llada20_uni", "llada21_mini"]


def as_it_is(tensors) -> None:
    pass


@pytest.mark.parametrize("published", HUB_CONFIGS)
@pytest.mark.parametrize("form", [as_it_is, merge])
def test_golden_weights_load_under_published_keys(golden, copy, tmp_path, published, form):
    """Every key of a published file, with the golden model's sizes; saving loses nothing."""
    path = copy(form)
    config_file = tmp_path / "config.json"
    own = json.loads(config_file.read_text())
    keys = json.loads((golden.parent / "hub_configs" / f"{published}.json").read_text())
    scaled = keys | {name: own[name] for name in own.keys() & keys.keys() - KEPT}
    scaled |= {"rotary_dim": 8} if "rotary_dim" in keys else {}
    config_file.write_text(json.dumps(scaled))
    decoder = Decoder.from_pretrained(path, dtype="float32")
    expected = LLaDA2MoeModelLM.from_pretrained(golden)
    assert_same_tensors(decoder.model.state_dict(), expected.state_dict())
    for factory in (LLaDA2MoeModelLM, AutoModelForCausalLM):
        assert type(factory.from_pretrained(path)) is LLaDA2MoeModelLM
    decoder.model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert_same_tensors(saved, load_file(golden / "model.safetensors"))
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    changed = {"transformers_version": None, "dtype": "float32", "torch_dtype": "float32"}
    for name in scaled:
        assert written[name] == changed.get(name, scaled[name]) or name == "transformers_version"
    assert type(Decoder.from_pretrained(tmp_path / "saved").model) is LLaDA2MoeModelLM


KEPT = {"model_type", "auto_map", "architectures", "torch_dtype", "pad_token_id"}


@pytest.mark.parametrize("size", [None, "100KB"])
def test_our_own_fused_form_loads(golden, tmp_path, size):
    model = LLaDA2MoeModelLM.from_pretrained(golden)
    options = {"max_shard_size": size} if size else {}
    model.save_pretrained(tmp_path, save_original_format=False, **options)
    again = LLaDA2MoeModelLM.from_pretrained(tmp_path)
    assert_same_tensors(again.state_dict(), model.state_dict())
    again.save_pretrained(tmp_path / "hub")
    saved = load_file(tmp_path / "hub" / "model.safetensors")
    assert_same_tensors(saved, load_file(golden / "model.safetensors"))


def test_an_index_of_a_single_shard_loads(golden, copy, tmp_path):
    copy(as_it_is)
    shard = "model-00001-of-00001.safetensors"
    (tmp_path / "model.safetensors").rename(tmp_path / shard)
    names = load_file(tmp_path / shard)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    again = Decoder.from_pretrained(tmp_path).model
    assert_same_tensors(again.state_dict(), LLaDA2MoeModelLM.from_pretrained(golden).state_dict())


@pytest.mark.parametrize("form", ["per expert", "merged", "fused"])
def test_a_state_dict_loads_in_every_form(golden, form):
    config = LLaDA2MoeConfig.from_pretrained(golden)
    expected = LLaDA2MoeModelLM.from_pretrained(golden)
    tensors = load_file(golden / "model.safetensors")
    if form == "merged":
        merge(tensors)
    elif form == "fused":
        tensors = expected.state_dict()
    model = LLaDA2MoeModelLM.from_pretrained(None, config=config, state_dict=dict(tensors))
    assert_same_tensors(model.state_dict(), expected.state_dict())
    tensors.pop("model.norm.weight")
    with pytest.raises(ValueError, match=r"missing: model\.norm\.weight"):
        LLaDA2MoeModelLM.from_pretrained(None, config=config, state_dict=tensors)


class TheirConfig(PreTrainedConfig):
    """Somebody else's reading of the same model type."""

    model_type = "llada2_moe"

    def __init__(self, **_):
        raise AssertionError("another library's config was made")


def test_whoever_else_has_taken_the_name_our_classes_load(golden, tmp_path, monkeypatch):
    """As when another library registers itself behind us; ahead of us, we take the name."""
    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", dict(CONFIG_MAPPING._extra_content))
    AutoConfig.register("llada2_moe", TheirConfig, exist_ok=True)
    for name in ("llada2_moe", "LLaDA2MoeModelLM"):
        register_checkpoint_conversion_mapping(name, [], overwrite=True)
    model = LLaDA2MoeModelLM.from_pretrained(golden)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert_same_tensors(saved, load_file(golden / "model.safetensors"))
    tokenizer = Decoder.from_pretrained("tiny").tokenizer
    tokenizer.save_pretrained(tmp_path)
    decoder = Decoder.from_pretrained(tmp_path)
    assert type(decoder.model) is LLaDA2MoeModelLM
    assert decoder.tokenizer.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("said", [{"eos_token_id": [3]}, {"temperature": 0.7, "top_p": 0.5}])
def test_a_generation_config_is_saved_as_it_was(copy, tmp_path, said):
    path = copy(as_it_is)
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    if "temperature" in said:
        try:
            GenerationConfig.from_pretrained(path).save_pretrained(tmp_path / "theirs")
        except ValueError:  # transformers 5.13 does not save what it has loaded
            return
    model = LLaDA2MoeModelLM.from_pretrained(path)
    for _ in range(2):
        model.save_pretrained(tmp_path / "saved")
        saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
        del saved["transformers_version"]
        assert saved == said


@pytest.mark.parametrize(
    "keys", [{"return_dict": False}, {"output_attentions": True}, {"output_hidden_states": True}]
)
def test_outputs_that_a_config_asks_for_change_no_decoding(golden, copy, tmp_path, keys):
    path = copy(as_it_is)
    options = {"max_new_tokens": 20, "mask_token_id": 127, "eos_token_id": []}
    want = Decoder.from_pretrained(path).generate(torch.arange(5), **options)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | keys))
    found = Decoder.from_pretrained(path).generate(torch.arange(5), **options)
    assert found.sequences[0].tolist() == want.sequences[0].tolist()


def test_transformers_loads_an_adapter_into_our_model(golden, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = LLaDA2MoeModelLM.from_pretrained(golden)
    adapted = get_peft_model(base, LoraConfig(target_modules=["dense"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    ids = torch.arange(12)[None]
    model = LLaDA2MoeModelLM.from_pretrained(golden)
    model.load_adapter(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted.eval()(ids).logits)


CHAT = [
    {
        "role": "user",
        "content": "State the final answer to the following arithmetic problem: 27 + 45 - 86 =",
    }
]


@pytest.mark.parametrize("published", HUB_CONFIGS)
def test_the_embedded_checkpoint_answers_under_published_keys(golden, tmp_path, published):
    tiny = Decoder.from_pretrained("tiny")
    want = tiny.generate(CHAT).texts
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    own = json.loads((TINY / "config.json").read_text())
    keys = json.loads((golden.parent / "hub_configs" / f"{published}.json").read_text())
    scaled = keys | {name: own[name] for name in own.keys() & keys.keys() - KEPT}
    scaled |= {"rotary_dim": tiny.model.config.rotary_dim} if "rotary_dim" in keys else {}
    if "rope_parameters" in keys:
        scaled["rope_parameters"] = {"rope_type": "default", "rope_theta": own["rope_theta"]}
    (tmp_path / "config.json").write_text(json.dumps(scaled))
    assert Decoder.from_pretrained(tmp_path, dtype="float32").generate(CHAT).texts == want


def test_a_generation_config_gives_its_eos_ids_and_not_its_sampling(tmp_path):
    whole = Decoder.from_pretrained("tiny").generate(CHAT).sequences[0].tolist()
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    said = {"eos_token_id": [whole[3]], "do_sample": True, "temperature": 5.0, "top_k": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    out = Decoder.from_pretrained(tmp_path).generate(CHAT)
    assert out.sequences[0].tolist() == whole[:4] and out.stats[0].finish_reason == "eos"
