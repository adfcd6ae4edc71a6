"""Logits against the released model's, cache, padding, precision and training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from plain_masks import doubled_block_mask
from safetensors.torch import load_file
from small import checkpointed, random_ids, tiny
from torch.nn.attention.flex_attention import flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from fastedit.models.llada2 import LLaDA2MoeModelLM, block_causal_mask
from fastedit.models.llada2.modeling import LLaDA2MoeExperts, grouped_products_wait


def golden_logits(golden, **implementations):
    model = LLaDA2MoeModelLM.from_pretrained(golden, **implementations)
    expected = load_file(golden / "forward.safetensors")
    ids = expected["input_ids"]
    positions = torch.arange(ids.shape[1]).expand(ids.shape)
    with torch.no_grad():
        output = model(
            input_ids=ids,
            attention_mask=block_causal_mask(positions, block_size=8),
            position_ids=positions,
        )
    return output.logits, expected["logits"]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm", "all_on_all"])
def test_golden_logits(golden, attn, experts, monkeypatch):
    few = experts == "all_on_all"
    monkeypatch.setattr(LLaDA2MoeExperts, "suits_all_on_all", lambda *_: few)
    logits, expected = golden_logits(
        golden,
        attn_implementation=attn,
        experts_implementation="eager" if few else experts,
    )
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "capability", "waits"),
    [
        (torch.bfloat16, (9, 0), False),
        (torch.bfloat16, (10, 3), False),
        (torch.bfloat16, (8, 0), True),
        (torch.bfloat16, (12, 0), True),
        (torch.float16, (9, 0), True),
        (torch.float32, (9, 0), True),
    ],
)
def test_a_few_experts_run_on_all_tokens_where_grouped_products_wait(
    monkeypatch, dtype, capability, waits
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    experts = tiny().model.layers[1].mlp.experts

    class Tokens(SimpleNamespace):
        device, shape = torch.device("cuda"), (64, 32)

        def __len__(self):
            return self.shape[0]

    tokens = Tokens(dtype=dtype)
    assert grouped_products_wait(tokens) == waits
    with torch.no_grad():
        assert experts.suits_all_on_all(tokens, top_k=2) == (waits and dtype != torch.float16)
        assert not experts.suits_all_on_all(Tokens(dtype=dtype, shape=(4097, 32)), top_k=2)
        assert not experts.suits_all_on_all(tokens, top_k=1)  # 8 experts, each on all tokens
    assert not experts.suits_all_on_all(tokens, top_k=2)  # training
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert grouped_products_wait(tokens)
    assert not grouped_products_wait(torch.zeros(1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_golden_logits_flex(golden, monkeypatch):
    """Not compiled: what torch 2.13 compiles for CPUs with AVX2 gives NaN or is no C++."""
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)
    logits, expected = golden_logits(golden, attn_implementation="flex_attention")
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_golden_logits_bf16(golden):
    logits, expected = golden_logits(golden, dtype=torch.bfloat16)
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert (logits - expected).norm() / expected.norm() < 0.1
    agree = (logits.argmax(-1) == expected.argmax(-1)).float().mean()
    assert agree > 0.8


@torch.no_grad()
def test_default_mask_is_block_causal():
    model, ids = tiny(), random_ids(2, 10)
    positions = torch.arange(10)[None]
    mask = block_causal_mask(positions, block_size=4)
    explicit = model(ids, attention_mask=mask, position_ids=positions).logits
    assert torch.equal(model(ids).logits, explicit)
    assert torch.equal(model(ids, position_ids=positions).logits, explicit)
    full = model(ids, attention_mask=torch.ones_like(mask)).logits
    assert not torch.allclose(full, explicit, atol=1e-2)


@torch.no_grad()
def test_cached_equals_uncached():
    model, ids = tiny(), random_ids(2, 16)
    expected = model(ids).logits
    output = model(ids[:, :8], use_cache=True)  # two blocks at once
    cache, logits = output.past_key_values, [output.logits]
    for start in (8, 12):
        positions = torch.arange(start, start + 4)[None]
        draft = model(random_ids(2, 4), position_ids=positions, past_key_values=cache)
        assert draft.past_key_values is cache
        cache.crop(-4)  # a draft's keys are dropped
        logits.append(model(ids[:, start : start + 4], past_key_values=cache).logits)
    assert cache.get_seq_length() == 16
    torch.testing.assert_close(torch.cat(logits, 1), expected, atol=1e-4, rtol=1e-4)
    rest = model(ids[:, 4:], past_key_values=model(ids[:, :4], use_cache=True).past_key_values)
    torch.testing.assert_close(rest.logits, expected[:, 4:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_see_nothing_are_finite_and_agree(dtype):
    ids = random_ids(1, 8)
    mask = block_causal_mask(torch.arange(8)[None], block_size=4)
    mask[..., 6:, :] = False
    mask[..., :, 6:] = False
    fused, plain = (tiny(a).to(dtype)(ids, attention_mask=mask).logits for a in ("sdpa", "eager"))
    assert fused.isfinite().all() and plain.isfinite().all()
    if dtype == torch.float32:  # in bf16 a rounding may send a token to another expert
        torch.testing.assert_close(fused, plain, atol=1e-4, rtol=1e-4)


def test_zero_one_float_mask_is_refused():
    ids = random_ids(1, 8)
    mask = block_causal_mask(torch.arange(8)[None], block_size=4)
    with pytest.raises(ValueError, match="must be bool"):
        tiny()(ids, attention_mask=mask.float())


@torch.no_grad()
def test_block_routing_prefix_and_padding():
    model, ids = tiny(expert_capacity=3), random_ids(1, 12)
    logits = model(ids).logits
    per_token = tiny()
    assert not torch.allclose(logits, per_token(ids).logits, atol=1e-3)
    torch.testing.assert_close(model(ids[:, :8]).logits, logits[:, :8], atol=1e-4, rtol=1e-4)
    cache = model(ids[:, :8], use_cache=True).past_key_values
    last = model(ids[:, 8:], past_key_values=cache).logits
    torch.testing.assert_close(last, logits[:, 8:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_to_keep():
    model, ids = tiny(), random_ids(2, 8)
    logits = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, logits[:, -3:])
    index = torch.tensor([0, 5])
    torch.testing.assert_close(model(ids, logits_to_keep=index).logits, logits[:, index])


@torch.no_grad()
def test_clean_half_is_the_plain_forward():
    model, clean, noisy = tiny(), random_ids(1, 12), random_ids(1, 12).flip(1)
    doubled = model(
        torch.cat([noisy, clean], 1),
        attention_mask=doubled_block_mask(12, 4),
        position_ids=torch.arange(12).repeat(2)[None],
    ).logits
    torch.testing.assert_close(doubled[:, 12:], model(clean).logits, atol=1e-4, rtol=1e-4)
    for start in (0, 4, 8):  # a noisy block sees the clean blocks before it, as in decoding
        step = torch.cat([clean[:, :start], noisy[:, start : start + 4]], 1)
        torch.testing.assert_close(
            doubled[:, start : start + 4], model(step).logits[:, start:], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(experts, checkpointing):
    model = tiny().train()
    model.set_experts_implementation(experts)
    if checkpointing:
        checkpointed(model)
    length = 64
    logits = model(
        random_ids(2, 2 * length),
        attention_mask=doubled_block_mask(length, 4),
        position_ids=torch.arange(length).repeat(2)[None],
        logits_to_keep=torch.arange(length),
    ).logits
    assert logits.shape == (2, length, 64)
    logits.logsumexp(-1).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        if name.endswith(("gate_up_proj", "down_proj")):
            assert (parameter.grad.flatten(1).abs().sum(1) > 0).all(), name


@torch.no_grad()
def test_generate_is_the_released_one_or_the_callable_it_is_given():
    model, ids = tiny(), random_ids(1, 4)
    output = model.generate(ids, gen_length=6, block_length=4, mask_id=63, eos_id=1)
    assert output.shape[0] == 1 and 1 <= output.shape[1] <= 6

    def fill(model, input_ids, suffix=None, **_):
        return torch.cat([input_ids, suffix], 1)

    suffix = random_ids(1, 3)
    output = model.generate(ids, custom_generate=fill, suffix=suffix)
    assert output.tolist() == torch.cat([ids, suffix], 1).tolist()
