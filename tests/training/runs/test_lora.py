"""What LoRA adapts, and an adapter's way through peft, the Decoder and a merge."""

from __future__ import annotations

import warnings

import pytest
import torch

pytest.importorskip("peft")

import peft

from fastedit.training.runs.lora import add_lora, trainable

LAYERS, DENSE_LAYERS = 4, 1
ATTENTION = ["attention.dense", "attention.query_key_value"]
MLP = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]
SHARED = [name.replace("mlp.", "mlp.shared_experts.") for name in MLP]


def perturbed(model):
    """Adapters start at zero; here they matter."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model.eval()


def ids():
    return torch.randint(6, 590, (2, 64), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model):
    return model(input_ids=ids()).logits


def test_the_default_adapts_attention_and_common_mlps(tiny_model):
    model = add_lora(tiny_model, rank=4)
    expected = {f"model.layers.{n}.{name}" for n in range(LAYERS) for name in ATTENTION}
    expected |= {f"model.layers.{n}.{name}" for n in range(DENSE_LAYERS) for name in MLP}
    expected |= {f"model.layers.{n}.{name}" for n in range(DENSE_LAYERS, LAYERS) for name in SHARED}
    assert set(model.targeted_module_names) == expected
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert not any(part in name for name in trained for part in ("mlp.gate.", "experts.gate_up"))
    report = trainable(model)
    assert report.names == sorted(ATTENTION + MLP + SHARED)
    assert report.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{report.trained:,} of {report.total:,} parameters train" in str(report)


def test_adapters_are_fp32_beside_weights_in_bf16(tiny_model):
    model = add_lora(tiny_model.to(torch.bfloat16), rank=4)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
    assert logits(perturbed(model)).isfinite().all()


@pytest.mark.parametrize("targets", [["nothing"], ["dense", "gate"], ["attention"]])
def test_a_target_without_a_match_is_an_error(tiny_model, targets):
    with pytest.raises(ValueError, match=rf"{targets[-1]!r} matches none .* dense, "):
        add_lora(tiny_model, targets=targets)


def test_experts_are_adapted_on_request(tiny_model):
    base = logits(tiny_model.eval())
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = add_lora(tiny_model, rank=8, alpha=16, experts=True)
    torch.testing.assert_close(logits(model.eval()), base)
    assert len(model.targeted_parameter_names) == 2 * (LAYERS - DENSE_LAYERS)
    assert set(trainable(model).names) >= {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    inner = model.base_model.model.model.layers[1].mlp.experts
    for wrapper in (inner, inner.base_layer):  # rank 8 // 4 experts for each, scale 16 / 8
        assert wrapper.lora_A["default"].weight.shape[0] == 4 * 2
        assert wrapper.scaling["default"] == 2.0
    model.train()
    model(input_ids=ids()).logits.logsumexp(-1).sum().backward()
    assert inner.lora_B["default"].weight.grad.abs().sum() > 0
    assert inner.base_layer.lora_B["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("experts", [False, True])
def test_an_adapter_loads_in_peft_and_in_the_decoder(tiny_model, tmp_path, experts):
    """Merged, the decisions are those of the adapter beside the weights."""
    from fastedit import Decoder
    from fastedit.models.llada2 import LLaDA2MoeModelLM
    from fastedit.models.load import TINY
    from fastedit.training.runs.trainer import save_weights

    before = logits(tiny_model.eval())
    model = perturbed(add_lora(tiny_model, rank=4, experts=experts))
    adapted = logits(model)
    save_weights(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(LLaDA2MoeModelLM.from_pretrained(TINY), tmp_path)
    torch.testing.assert_close(logits(loaded.eval()), adapted, rtol=0, atol=0)
    decoder = Decoder.from_pretrained("tiny", adapter=str(tmp_path), device="cpu")
    assert not any("lora" in name for name, _ in decoder.model.named_parameters())
    merged = logits(decoder.model)
    assert (merged - before).abs().max() > 0.1
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=5e-4)
    top = adapted.topk(2).values
    clear = top[..., 0] - top[..., 1] > 1e-3
    assert clear.float().mean() > 0.9
    assert torch.equal(merged.argmax(-1)[clear], adapted.argmax(-1)[clear])
    unmerged = Decoder(loaded.get_base_model(), decoder.tokenizer)
    chat = [{"role": "user", "content": "3 + 4 ="}]
    options = {"max_new_tokens": 32}
    assert decoder.generate(chat, **options).texts == unmerged.generate(chat, **options).texts
