"""Merged equals unmerged, for every kind of adapter that becomes part of the weights."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

pytest.importorskip("peft")

import peft
from adapting import MLP, adapted, base, edit_config, edit_tensors, logits, merged, saved

from fastedit import Decoder
from fastedit.models.load import TINY

LINEAR = ["query_key_value", "dense"]


@pytest.fixture(autouse=True)
def environment_comes_back():
    """peft's BOFT leaves CC and CXX set where its extension does not compile."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": LINEAR} | options)


KINDS = {
    "lora": lambda: lora(target_modules=[*LINEAR, *MLP]),
    "all-linear": lambda: lora(target_modules="all-linear"),
    "regex": lambda: lora(target_modules=r".*layers\.[01]\..*dense"),
    "layers": lambda: lora(layers_to_transform=[1]),
    "patterns": lambda: lora(rank_pattern={"dense": 2}, alpha_pattern={r".*\.1\..*dense": 5}),
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "embeddings": lambda: lora(target_modules=["word_embeddings", "lm_head"]),
    "modules_to_save": lambda: lora(modules_to_save=["lm_head", "input_layernorm", "norm"]),
    "trainable_tokens": lambda: lora(trainable_token_indices=list(range(40))),
    "parameters": lambda: lora(target_parameters=["experts.down_proj", "experts.gate_up_proj"]),
    "adalora": lambda: peft.AdaLoraConfig(target_modules=LINEAR, total_step=10),
    "ia3": lambda: peft.IA3Config(
        target_modules=["query_key_value", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "loha": lambda: peft.LoHaConfig(target_modules=LINEAR),
    "lokr": lambda: peft.LoKrConfig(target_modules=LINEAR),
    "vera": lambda: peft.VeraConfig(target_modules=["dense"], r=8),
    "oft": lambda: peft.OFTConfig(target_modules=LINEAR, r=0, oft_block_size=4),
    "boft": lambda: peft.BOFTConfig(target_modules=LINEAR, boft_block_size=4),
    "hra": lambda: peft.HRAConfig(target_modules=LINEAR),
    "fourierft": lambda: peft.FourierFTConfig(target_modules=LINEAR, n_frequency=50),
    "vblora": lambda: peft.VBLoRAConfig(
        target_modules=["dense"], num_vectors=16, vector_length=8, save_only_topk_weights=True
    ),
    "tokens": lambda: peft.TrainableTokensConfig(
        target_modules=["word_embeddings"], token_indices=list(range(40))
    ),
    "norms": lambda: peft.LNTuningConfig(
        target_modules=["input_layernorm", "norm"], modules_to_save=["lm_head"]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_unmerged(kind, tmp_path):
    model = adapted(base(), KINDS[kind]())
    expected = logits(model)
    found = merged(saved(model, tmp_path))
    assert (expected - logits(base())).abs().max() > 0.05
    torch.testing.assert_close(logits(found), expected, rtol=1e-5, atol=1e-4)
    plain = {name: p.shape for name, p in base().named_parameters()}
    assert {name: p.shape for name, p in found.named_parameters()} == plain
    assert not any("peft" in type(module).__module__ for module in found.modules())


@pytest.mark.parametrize(
    "config",
    [
        lambda: lora(target_modules=[], target_parameters=["mlp.gate.weight"]),
        lambda: lora(modules_to_save=["gate"]),
        lambda: peft.LNTuningConfig(target_modules=["query_layernorm", "key_layernorm"]),
    ],
    ids=["router-lora", "router-saved", "head-norms"],
)
def test_weights_that_the_model_reads_around_their_module(config, tmp_path):
    """Where peft's own forward does not see the adapter, its tensors say what is right."""
    model = adapted(base(), config())
    expected = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "ln_tuning_layers"):
            expected[name] = module.ln_tuning_layers["default"].weight.data
        elif hasattr(module, "modules_to_save"):
            expected[name] = module.modules_to_save["default"].weight.data
        elif hasattr(module, "get_delta_weight") and "gate" in name:
            expected[name] = module.get_base_layer().weight.data + module.get_delta_weight(
                "default"
            )
    assert len(expected) in (2, 6)
    found = merged(saved(model, tmp_path))
    for name, weight in expected.items():
        weight_found = found.get_submodule(name).weight
        torch.testing.assert_close(weight_found, weight, rtol=0, atol=1e-6)
        assert (weight_found - base().get_submodule(name).weight).abs().max() > 1e-3


@pytest.mark.parametrize("model_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameters", [False, True])
def test_a_sum_is_rounded_once(model_dtype, adapter_dtype, parameters, tmp_path):
    experts = "experts.down_proj"
    options = {"target_modules": [], "target_parameters": [experts]} if parameters else {}
    folder = saved(adapted(base(), lora(**options)), tmp_path)
    edit_tensors(folder, lambda tensors: {n: x.to(adapter_dtype) for n, x in tensors.items()})
    exact = merged(folder, base().to(model_dtype).float())
    found = merged(folder, base().to(model_dtype))
    name = "model.layers.1." + (f"mlp.{experts}" if parameters else "attention.dense.weight")
    weight = found.get_parameter(name)
    assert weight.dtype == model_dtype
    assert torch.equal(weight, exact.get_parameter(name).to(model_dtype))
    assert {p.dtype for p in found.parameters()} == {model_dtype}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace(".weight", ".mine.weight").replace(
            "vector", "vector.mine.weight"
        ),
        lambda name: name.replace("magnitude_vector", "magnitude_vector.weight"),
        lambda name: "module._orig_mod." + name,
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
    ],
    ids=["bare", "default", "mine", "magnitude", "compiled", "trunk"],
)
def test_other_names_of_the_same_tensors(rename, tmp_path):
    model = adapted(base(), lora(use_dora=True))
    folder = saved(model, tmp_path)
    edit_tensors(folder, lambda tensors: {rename(name): x for name, x in tensors.items()})
    torch.testing.assert_close(logits(merged(folder)), logits(model), rtol=1e-5, atol=1e-4)


def test_a_kind_of_module_without_tensors_stays_as_it_is(tmp_path):
    folder = saved(adapted(base(), lora()), tmp_path)
    expected = merged(folder).state_dict()
    edit_config(folder, target_modules=[*LINEAR, "gate_proj"], base_model_name_or_path="else/where")
    with pytest.warns(UserWarning, match=r"targets .*shared_experts.gate_proj too, .*nothing"):
        found = merged(folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_adapter_is_a_path_or_its_text(tmp_path):
    model = adapted(Decoder.from_pretrained("tiny", device="cpu").model, lora())
    saved(model, tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = [
            Decoder.from_pretrained(TINY.as_posix(), adapter=adapter, device="cpu").model
            for adapter in (tmp_path, str(tmp_path))
        ]
    assert not [w for w in seen if "peft" in str(w.filename) or "adapter" in str(w.message)]
    for one in found:
        torch.testing.assert_close(logits(one), logits(model), rtol=1e-4, atol=1e-3)
