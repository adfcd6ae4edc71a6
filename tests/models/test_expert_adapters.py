"""Adapters trained with a module per expert become part of the fused experts."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("peft")

import peft
from adapting import (
    MLP,
    adapted,
    base,
    edit_config,
    edit_tensors,
    logits,
    merged,
    released,
    saved,
)

EXPERTS = r".*\.experts\.\d+\.(gate|up|down)_proj"


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": MLP} | options)


KINDS = {
    "common": lambda: lora(),
    "only-experts": lambda: lora(target_modules=EXPERTS),
    "with-attention": lambda: lora(target_modules=[*MLP, "query_key_value", "dense"]),
    "all-linear": lambda: lora(target_modules="all-linear"),
    "few": lambda: lora(target_modules=r".*\.experts\.[25]\.(gate|down)_proj|.*dense"),
    "excluded": lambda: lora(exclude_modules=r".*\.experts\.[0-6]\..*"),
    "patterns": lambda: lora(
        rank_pattern={r"experts\.\d+\.gate_proj": 2, r"layers\.1\..*experts\.3\.up_proj": 6},
        alpha_pattern={r"experts\.[02]\.\w+": 30},
    ),
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True),
    "saved": lambda: lora(target_modules=["dense"], modules_to_save=MLP),
    "mlp-saved": lambda: lora(target_modules=["dense"], modules_to_save=["mlp"]),
    "one-saved": lambda: lora(target_modules=["dense"], modules_to_save=["experts.3.up_proj"]),
    "head-saved": lambda: lora(modules_to_save=["lm_head", "gate"]),
    "loha": lambda: peft.LoHaConfig(target_modules=MLP),
    "lokr": lambda: peft.LoKrConfig(target_modules=EXPERTS),
    "ia3": lambda: peft.IA3Config(target_modules=MLP, feedforward_modules=["down_proj"]),
    "oft": lambda: peft.OFTConfig(target_modules=EXPERTS, r=0, oft_block_size=4),
    "vera": lambda: peft.VeraConfig(target_modules=["gate_proj", "up_proj"], r=8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_experts_apart_and_fused_are_one_model(kind, tmp_path):
    model = adapted(released(base()), KINDS[kind]())
    names = dict(base().named_parameters()).keys()
    folder = saved(model, tmp_path)
    if "saved" not in kind or "head" in kind:
        expected = logits(model)
    found = merged(folder)
    if "saved" in kind and "head" not in kind:
        expected = logits(model.merge_and_unload())
    torch.testing.assert_close(logits(found), expected, rtol=1e-5, atol=2e-4)
    assert (expected - logits(base())).abs().max() > 0.05
    assert dict(found.named_parameters()).keys() == names


def test_every_slice_is_the_dense_sum(tmp_path):
    """scale * B A, each projection in its own rows, written out."""
    model = adapted(released(base()), lora(rank_pattern={"down_proj": 2}))
    found, plain = merged(saved(model, tmp_path)), base()
    inner = plain.config.moe_intermediate_size
    for layer in (1, 2):
        experts = f"model.layers.{layer}.mlp.experts"
        for index in range(plain.config.num_experts):
            for part in MLP:
                linear = model.base_model.model.get_submodule(f"{experts}.{index}.{part}")
                a, b = linear.lora_A["default"].weight, linear.lora_B["default"].weight
                assert a.shape[0] == (2 if part == "down_proj" else 4)
                fused, rows = {
                    "gate_proj": ("gate_up_proj", slice(0, inner)),
                    "up_proj": ("gate_up_proj", slice(inner, 2 * inner)),
                    "down_proj": ("down_proj", slice(None)),
                }[part]
                name = f"{experts}.{fused}"
                before, after = plain.get_parameter(name), found.get_parameter(name)
                expected = before[index, rows] + 12 / a.shape[0] * (b @ a)
                torch.testing.assert_close(after[index, rows], expected, rtol=0, atol=1e-6)


def test_a_file_may_know_fewer_experts_than_its_targets_match(tmp_path):
    """By hand: three tensors' worth of one expert, and targets that match everywhere."""
    folder = saved(adapted(released(base()), lora()), tmp_path)
    edit_tensors(
        folder, lambda tensors: {n: x for n, x in tensors.items() if ".1.mlp.experts.5." in n}
    )
    with pytest.warns(UserWarning, match="shared_experts"):
        found = merged(folder)
    plain = dict(base().named_parameters())
    changed = [
        (name, index)
        for name, weight in found.named_parameters()
        for index in range(len(weight) if "experts." in name and weight.ndim == 3 else 1)
        if not torch.equal(weight[index], plain[name][index])
    ]
    experts = "model.layers.1.mlp.experts"
    assert changed == [(f"{experts}.gate_up_proj", 5), (f"{experts}.down_proj", 5)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_slices_are_rounded_once(dtype, tmp_path):
    folder = saved(adapted(released(base()), lora()), tmp_path)
    edit_tensors(folder, lambda tensors: {n: x.bfloat16() for n, x in tensors.items()})
    exact = merged(folder, base().to(dtype).float())
    found = merged(folder, base().to(dtype))
    for name in ("gate_up_proj", "down_proj"):
        weight = found.get_parameter(f"model.layers.2.mlp.experts.{name}")
        reference = exact.get_parameter(f"model.layers.2.mlp.experts.{name}")
        assert torch.equal(weight, reference.to(dtype))


@pytest.mark.parametrize("rename", [
    lambda name: name.removeprefix("base_model.model."),
    lambda name: name.replace(".weight", ".default.weight"),
], ids=["bare", "default"])  # fmt: skip
def test_other_names_of_the_same_tensors(rename, tmp_path):
    model = adapted(released(base()), lora())
    folder = saved(model, tmp_path)
    edit_tensors(folder, lambda tensors: {rename(name): x for name, x in tensors.items()})
    torch.testing.assert_close(logits(merged(folder)), logits(model), rtol=1e-5, atol=1e-4)


def drop(part):
    return lambda tensors: {n: x for n, x in tensors.items() if part not in n}


def rename(old, new):
    return lambda tensors: {n.replace(old, new): x for n, x in tensors.items()}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop("layers.1.mlp.experts.5.gate_proj.lora_B"), r"missing: .*\.5\.gate_proj\.lora_B"),
        (rename("experts.7.", "experts.8."), r"no place in it: .*experts\.8\.down_proj\.lora_A"),
        (rename("layers.2.mlp.experts", "layers.3.mlp.experts"), r"no place .*layers\.3\.mlp"),
        (rename("layers.2.mlp.experts", "layers.0.mlp.experts"), r"no place .*layers\.0\.mlp"),
        (rename("experts.5.up_proj", "experts.5.w3_proj"), r"no place .*experts\.5\.w3_proj"),
        (lambda t: {n: x[:, :-1] if "experts.5.up_proj.lora_A" in n else x for n, x in t.items()},
         r"wrong shape: .*experts\.5\.up_proj\.lora_A\.weight is \[4, 63\], here \[4, 64\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(edit, words, tmp_path):
    folder = edit_tensors(saved(adapted(released(base()), lora()), tmp_path), edit)
    with pytest.raises(ValueError, match=words):
        merged(folder)


def test_dora_without_a_magnitude_is_refused(tmp_path):
    folder = saved(adapted(released(base()), lora(use_dora=True)), tmp_path)
    edit_tensors(folder, drop("experts.5.up_proj.lora_magnitude_vector"))
    with pytest.raises(ValueError, match=r"missing: .*experts\.5\.up_proj\.lora_magnitude_vector"):
        merged(folder)
    edit_config(folder, use_dora=False)
    with pytest.raises(ValueError, match="lora_magnitude_vector"):
        merged(folder)
