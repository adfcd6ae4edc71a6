"""Arguments that users of transformers pass to a model: each is honoured or refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import random_ids, tiny
from transformers import DynamicCache

from fastedit.models.llada2 import block_causal_mask

IDS = random_ids(2, 8)
ZERO = torch.zeros_like(IDS)


def labels() -> torch.Tensor:
    found = random_ids(2, 8).flip(0)
    found[:, ::3] = -100
    return found


def test_labels_give_the_cross_entropy_of_the_same_positions():
    model, wanted = tiny(), labels()
    output = model(IDS, labels=wanted)
    expected = F.cross_entropy(output.logits[wanted >= 0], wanted[wanted >= 0])
    torch.testing.assert_close(output.loss, expected)
    assert torch.equal(model(IDS, labels=wanted, return_dict=False)[0], output.loss)
    for count in (100, torch.tensor(100)):
        shared = model(IDS, labels=wanted, num_items_in_batch=count).loss
        torch.testing.assert_close(shared, expected * (wanted >= 0).sum() / 100)
    embeds = model.get_input_embeddings()(IDS)
    assert torch.equal(model(inputs_embeds=embeds, labels=wanted).loss, output.loss)
    narrow = model(IDS, labels=wanted, upcast_logits=False).loss
    assert torch.equal(narrow, output.loss) and model(IDS).loss is None
    output.loss.backward()
    assert model.lm_head.weight.grad.any()


def test_labels_of_the_logits_that_are_kept():
    model, wanted = tiny(), labels()
    every = model(IDS).logits
    for keep in (3, torch.tensor([1, 2, 6])):
        kept = slice(-keep, None) if isinstance(keep, int) else keep
        loss = model(IDS, labels=wanted, logits_to_keep=keep).loss
        expected = F.cross_entropy(every[:, kept].flatten(0, 1), wanted[:, kept].flatten())
        torch.testing.assert_close(loss, expected)


def test_the_loss_may_be_another():
    model = tiny()
    model.loss_function = lambda logits, labels, vocab_size, **_: logits.sum() * 0 + vocab_size
    assert model(IDS, labels=IDS).loss == 64


@pytest.mark.parametrize("shape", [(2, 7), (8,), (1, 8), (2, 8, 1)])
def test_misshapen_labels_are_refused(shape):
    with pytest.raises(ValueError, match=r"labels must be .*\[2, 8\]"):
        tiny()(IDS, labels=torch.zeros(shape, dtype=torch.long))


REFUSED = {
    "cache_position": torch.arange(8),
    "cu_seq_lens_q": torch.tensor([0, 8, 16]),
    "cu_seq_lens_k": torch.tensor([0, 8, 16]),
    "cu_seqlens": torch.tensor([0, 8, 16]),
    "encoder_hidden_states": torch.zeros(2, 3, 32),
    "head_mask": torch.ones(3, 4),
    "is_causal": False,
    "max_length_k": 8,
    "max_length_q": 8,
    "num_logits_to_keep": 1,
    "output_router_logits": True,
    "seq_idx": torch.zeros(1, 8),
    "seqlens": [8, 8],
    "token_type_ids": torch.ones_like(IDS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_here_is_refused_by_name(name):
    model = tiny()
    for door in (model, model.model):
        with pytest.raises(ValueError, match=f"{name} is not supported: "):
            door(IDS, **{name: REFUSED[name]})
        door(IDS, **{name: None})


def test_what_asks_for_nothing_passes():
    model = tiny()
    plain = model(IDS).logits
    nothing = {"token_type_ids": ZERO, "output_router_logits": False, "output_attentions": None}
    assert torch.equal(model(IDS, **nothing).logits, plain)


@pytest.mark.parametrize("name", ["attention_masks", "lables", "position_id", "temperature"])
def test_unknown_arguments_are_refused(name):
    model = tiny()
    for door in (model, model.model):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            door(IDS, **{name: IDS})


def test_the_cache_has_two_names():
    model = tiny()
    expected = model(IDS).logits[:, 4:]
    for name in ("cache", "past_key_values"):
        cache = DynamicCache(config=model.config)
        model(IDS[:, :4], **{name: cache})
        torch.testing.assert_close(model(IDS[:, 4:], **{name: cache}).logits, expected)
        with pytest.raises(ValueError, match="pass one"):
            model(IDS, cache=cache, past_key_values=DynamicCache(config=model.config))


@pytest.mark.parametrize("capacity", [None, 3])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [(3, 2, 4), (1, 1, 7), (9,), (4, 5), (8, 1)])
def test_documents_packed_by_positions_do_not_see_each_other(lengths, attn, capacity):
    model = tiny(attn, expert_capacity=capacity)
    documents = random_ids(1, sum(lengths)).split(lengths, dim=1)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packed = torch.cat(documents, dim=1)
    apart = torch.cat([model(document).logits for document in documents], dim=1)
    torch.testing.assert_close(model(packed, position_ids=positions).logits, apart)
    rows = torch.cat([packed, packed.flip(1)])
    both = model(rows, position_ids=positions).logits
    torch.testing.assert_close(both[:1], apart, atol=1e-4, rtol=1e-4)
    each = torch.cat([positions, torch.arange(positions.shape[1])[None]])
    whole = model(rows, position_ids=each).logits[1:]
    torch.testing.assert_close(whole, model(rows[1:]).logits, atol=1e-4, rtol=1e-4)


def test_an_explicit_mask_goes_before_packed_positions():
    model = tiny()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    mask = block_causal_mask(positions, block_size=4)
    together = model(IDS, position_ids=positions, attention_mask=mask).logits
    apart = model(IDS, position_ids=positions).logits
    assert not torch.allclose(apart, together, atol=1e-2)
    unpadded = model(IDS, position_ids=positions, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(unpadded, apart)


def test_gaps_between_positions_are_no_end_of_a_document():
    model = tiny()
    positions = torch.tensor([[0, 1, 2, 3, 8, 9, 10, 11]])
    mask = block_causal_mask(positions, block_size=4)
    expected = model(IDS, position_ids=positions, attention_mask=mask).logits
    assert torch.equal(model(IDS, position_ids=positions).logits, expected)


def test_a_config_may_say_that_attention_is_not_causal():
    """transformers then passes `is_causal` to every forward; it is what this family does anyway."""
    model, said = tiny(), tiny(is_causal=False)
    assert torch.equal(said(IDS).logits, model(IDS).logits)
