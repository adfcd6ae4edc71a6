"""Hub checkpoints in and out, and everything a loader must refuse."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModel, LLaDA2MoeModelLM
from fastedit.models.llada2.conversion import hub_shapes, merged_shapes


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


def test_pickles_are_refused(golden, tmp_path):
    shutil.copy(golden / "config.json", tmp_path)
    torch.save(load_file(golden / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors only"):
        LLaDA2MoeModelLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="safetensors only"):
        LLaDA2MoeModelLM.from_pretrained(golden, use_safetensors=False)


def test_code_in_a_checkpoint_is_not_run(golden, copy, tmp_path):
    path = copy(lambda tensors: None)
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    for module in ("configuration_llada2_moe", "modeling_llada2_moe"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('ran remote code')\n")
    model = AutoModelForCausalLM.from_pretrained(path)
    assert type(model) is LLaDA2MoeModelLM and not hasattr(model.config, "auto_map")
