"""Adapters on models of every family, and those that were trained under published names."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from family_cases import FAMILIES, GOLDEN, decoder, forwards
from safetensors.torch import load_file, save_file

pytest.importorskip("peft")

import peft
from adapting import WEIGHTS, adapted, edit_config, edit_tensors, saved

from fastedit import Decoder
from fastedit.models.adapters.names import bare


def with_adapter(family: str, folder, config) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the adapted model inside peft, which is saved in `folder`, and of the plain one."""
    arguments = next(iter(forwards(family).values()))[0]
    plain = decoder(family).model
    model = adapted(copy.deepcopy(plain), config)
    saved(model, folder)
    with torch.no_grad():
        return model(**arguments).logits, plain(**arguments).logits


@torch.no_grad()
def logits_with(family: str, folder) -> torch.Tensor:
    arguments = next(iter(forwards(family).values()))[0]
    model = Decoder.from_pretrained(GOLDEN / family, adapter=folder, device="cpu").model
    return model(**arguments).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_equals_unmerged(family, tmp_path):
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj"], modules_to_save=["norm"])
    expected, plain = with_adapter(family, tmp_path, config)
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(logits_with(family, tmp_path), expected, rtol=1e-5, atol=1e-4)


def to_published_names(folder) -> None:
    """As an adapter of the released LLaDA code names its tensors."""
    name = decoder("llada").model.published_name
    edit_tensors(
        folder, lambda tensors: {f"base_model.model.{name(bare(n))}": x for n, x in tensors.items()}
    )


PUBLISHED = {
    "lora": (
        peft.LoraConfig(
            r=4,
            target_modules=["q_proj", "o_proj", "down_proj", "lm_head"],
            rank_pattern={"lm_head": 2, r"layers\.1\..*o_proj": 3},
            alpha_pattern={"down_proj": 20},
            modules_to_save=["input_layernorm"],
        ),
        {
            "target_modules": ["q_proj", "attn_out", "ff_out"],
            "rank_pattern": {"transformer.ff_out": 2, r"blocks\.1\.attn_out": 3},
            "alpha_pattern": {r"blocks\.\d+\.ff_out": 20},
            "modules_to_save": ["attn_norm"],
        },
    ),
    "some layers": (
        peft.LoraConfig(r=4, target_modules=["gate_proj"], layers_to_transform=[1]),
        {"target_modules": ["ff_proj"], "layers_pattern": "blocks"},
    ),
    "ia3": (
        peft.IA3Config(target_modules=["k_proj", "up_proj"], feedforward_modules=["up_proj"]),
        {"target_modules": ["k_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_an_adapter_of_the_released_code(kind, tmp_path):
    config, options = PUBLISHED[kind]
    expected, plain = with_adapter("llada", tmp_path, config)
    assert (expected - plain).abs().max() > 0.01
    to_published_names(tmp_path)
    edit_config(tmp_path, **options)
    torch.testing.assert_close(logits_with("llada", tmp_path), expected, rtol=1e-5, atol=1e-4)


def test_a_published_name_without_a_place_is_an_error(tmp_path):
    with_adapter("llada", tmp_path, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    to_published_names(tmp_path)
    edit_tensors(tmp_path, lambda x: {n.replace("blocks.2.", "blocks.7."): t for n, t in x.items()})
    with pytest.raises(ValueError, match=r"model\.layers\.7\.self_attn\.q_proj"):
        logits_with("llada", tmp_path)


def test_a_module_per_expert_of_llada_moe(tmp_path):
    """Those that the released code has, of which the fused weights are rows here."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    config["target_modules"] = [
        f"experts.{e}.{p}" for e in (1, 4) for p in ("up_proj", "down_proj")
    ]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    published = load_file(GOLDEN / "llada_moe" / "model.safetensors")
    tensors, expected = {}, {}
    torch.manual_seed(0)
    for name, weight in published.items():
        expected[name] = weight
        module = name.removesuffix(".weight")
        if any(module.endswith(target) for target in config["target_modules"]):
            a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
            tensors[f"base_model.model.{module}.lora_A.weight"] = a
            tensors[f"base_model.model.{module}.lora_B.weight"] = b
            expected[name] = weight + 3 * b @ a
    assert len(tensors) == 2 * 2 * 4
    save_file(tensors, tmp_path / WEIGHTS)
    merged = Decoder.from_pretrained(GOLDEN / "llada_moe", adapter=tmp_path, device="cpu").model
    merged.save_pretrained(tmp_path / "merged")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5, msg=name)
