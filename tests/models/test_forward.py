"""A forward and what it returns, as transformers' own tests ask of every model."""

from __future__ import annotations

import warnings

import pytest
import torch
from small import IDS, checkpointed, close, logits, random_ids, tiny
from torch.nn.attention.flex_attention import flex_attention
from transformers import DynamicCache
from transformers.integrations.flex_attention import WrappedFlexAttention

CAPACITY = pytest.mark.parametrize("capacity", [None, 3])


# One forward, said in different ways


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", [None, "left", "right"])
@pytest.mark.parametrize("attn", ["eager", "flex_attention"])
def test_attention_implementations_agree(monkeypatch, attn, mask):
    """flex_attention is not compiled: torch 2.13 compiles it wrongly for CPUs with AVX2."""
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)
    model, padding = tiny(), None
    if mask:
        padding = torch.ones_like(IDS)
        padding[0, slice(3) if mask == "left" else slice(-3, None)] = 0
    expected = logits(model, IDS, attention_mask=padding)
    model.set_attn_implementation(attn)
    found = logits(model, IDS, attention_mask=padding)
    seen = slice(None) if padding is None else padding.bool()
    close(found[seen], expected[seen])


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_experts_implementations_agree(experts):
    model, ids = tiny(), random_ids(2, 50)  # too many tokens for all experts on all of them
    expected = logits(model, ids)
    model.set_experts_implementation(experts)
    close(logits(model, ids), expected)


@CAPACITY
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side, capacity):
    model = tiny(expert_capacity=capacity)
    ids = random_ids(1, 9)
    pad, ones = torch.full((1, 5), 7), torch.ones(1, 9, dtype=torch.long)
    order = [pad, ids] if side == "left" else [ids, pad]
    marks = [torch.zeros_like(pad), ones] if side == "left" else [ones, torch.zeros_like(pad)]
    batch = torch.cat([torch.cat(order, 1), random_ids(1, 14)])
    mask = torch.cat([torch.cat(marks, 1), torch.ones(1, 14, dtype=torch.long)])
    found = logits(model, batch, attention_mask=mask)
    assert found.isfinite().all()
    close(found[:1, 5:] if side == "left" else found[:1, :9], logits(model, ids))


def test_embeddings_stand_in_for_ids():
    model = tiny()
    embeds = model.get_input_embeddings()(IDS)
    assert torch.equal(logits(model, inputs_embeds=embeds), logits(model, IDS))
    for wrong in ({}, {"input_ids": IDS, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="exactly one"):
            model(**wrong)


def test_the_same_again_and_in_training_mode():
    model = tiny()
    expected = logits(model, IDS)
    assert torch.equal(logits(model, IDS), expected)
    assert torch.equal(logits(model.train(), IDS), expected)


def test_tuples_hold_what_the_output_holds():
    model = tiny("eager")
    asked = {"output_hidden_states": True, "output_attentions": True, "use_cache": True}
    with torch.no_grad():
        whole, parts = model(IDS, **asked), model(IDS, **asked, return_dict=False)
        assert isinstance(parts, tuple) and len(parts) == len(whole.to_tuple()) == 4
        assert torch.equal(parts[0], whole.logits)
        model.config.return_dict = False
        # With a cache, too: keys then lie elsewhere, and a matrix product may round otherwise.
        assert torch.equal(model(IDS, use_cache=True)[0], whole.logits)
        whole_again = model(IDS, use_cache=True, return_dict=True)
        assert torch.equal(whole_again.logits, whole.logits)


# What is returned beside the logits


def test_hidden_states_and_attentions():
    model = tiny("eager")
    with torch.no_grad():
        output = model(IDS, output_hidden_states=True, output_attentions=True, use_cache=True)
        trunk = model.model(IDS, use_cache=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 10, 32)] * 4
    assert torch.equal(output.hidden_states[0], model.model.word_embeddings(IDS))
    assert torch.equal(output.hidden_states[-1], trunk.last_hidden_state)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 10, 10)] * 3
    for weights in output.attentions:
        close(weights.sum(-1), torch.ones(2, 4, 10))
        assert not weights[..., :4, 4:].any() and not weights[..., 4:8, 8:].any()
    cache = output[next(name for name in ("cache", "past_key_values") if name in output)]
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == 10
    assert logits(model, IDS[:, :2], past_key_values=cache).shape == (2, 2, 64)


def test_gradients_reach_what_is_returned():
    model = tiny("eager")
    output = model(IDS, output_hidden_states=True, output_attentions=True)
    for tensor in (*output.hidden_states, *output.attentions):
        tensor.retain_grad()
    output.logits[0, -1].sum().backward(retain_graph=True)
    for tensor in (*output.hidden_states, *output.attentions):
        assert tensor.grad.any()
    model.zero_grad()
    output.attentions[2].square().sum().backward()
    attention = model.model.layers[2].attention
    query, key, value = attention.query_key_value.weight.grad.split((64, 32, 32))
    assert query.any() and key.any() and not value.any()
    assert attention.query_layernorm.weight.grad.any()
    assert attention.key_layernorm.weight.grad.any()


def test_attentions_need_an_implementation_that_has_them():
    model = tiny()
    for asked in ({"output_attentions": True}, {"output_attentions": True, "return_dict": False}):
        with pytest.raises(ValueError, match=r"'sdpa'.*set_attn_implementation\(\"eager\"\)"):
            model(IDS, **asked)
        with pytest.raises(ValueError, match="'sdpa'"):
            model.model(IDS, **asked)
    assert model(IDS, output_attentions=False).attentions is None


def test_checkpointed_gradients_are_the_same():
    for reentrant in (False, True):
        grads = []
        for model in (tiny().train(), checkpointed(tiny().train(), use_reentrant=reentrant)):
            embeds = model.get_input_embeddings()(IDS)
            model(inputs_embeds=embeds, labels=IDS).loss.backward()
            grads.append([parameter.grad for parameter in model.parameters()])
        for plain, again in zip(*grads, strict=True):
            torch.testing.assert_close(plain, again)


def test_a_checkpointed_layer_writes_no_cache():
    model = checkpointed(tiny().train(), use_reentrant=False)
    cache = DynamicCache(config=model.config)
    model(IDS, past_key_values=cache, labels=IDS).loss.backward()
    assert cache.get_seq_length() == 0


def test_nothing_warns():
    model = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(IDS, labels=IDS, use_cache=True).loss.backward()
        model.resize_token_embeddings(70, mean_resizing=False)
        logits(model, IDS, attention_mask=torch.ones_like(IDS))
