"""Ids that delete and insert: where they come from, their rows, and their way to a decoder."""

from __future__ import annotations

import copy

import pytest
import torch
from family_models import family_model

from fastedit.training.options import EditOptions
from fastedit.training.runs.control_tokens import control_tokens
from fastedit.training.runs.lora import add_lora

MASK = 257  # of the tokenizer of bytes


def lcs(**ids):
    return EditOptions(labels="lcs", **ids)


def small(tokenizer, spare=0, **options):
    return family_model("sdar", vocab=len(tokenizer) + spare, block_size=4, **options)


@pytest.mark.parametrize("spare", [0, 2, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_get_rows_that_begin_as_the_mean(tokenizer, spare, tied):
    tokenizer = copy.deepcopy(tokenizer)
    known = len(tokenizer)
    model = small(tokenizer, spare, tie_word_embeddings=tied)
    found = control_tokens(lcs(), model, tokenizer, MASK)
    assert found == (known, known + 1)
    assert model.config.vocab_size == known + max(spare, 2)
    assert tokenizer("<|del|>", add_special_tokens=False)["input_ids"] == [known]
    assert (model.config.delete_token_id, model.config.insert_token_id) == found
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        mean = module.weight[:known].mean(0)
        torch.testing.assert_close(module.weight[list(found)], mean.expand(2, -1))
    before = model.lm_head.weight.clone()
    assert control_tokens(lcs(), model, tokenizer, MASK) == found  # they are known now
    assert torch.equal(model.lm_head.weight, before)


def test_ids_are_those_of_options_then_config_then_tokenizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<|split|>", "<|gone|>"], special_tokens=False)
    insert, gone = tokenizer.convert_tokens_to_ids(["<|split|>", "<|gone|>"])
    model = small(tokenizer, spare=1)
    free = len(tokenizer)
    asked = lcs(delete_token_id="<|gone|>", insert_token_id=free)
    assert control_tokens(asked, model, tokenizer, MASK) == (gone, free)
    assert control_tokens(lcs(), model, tokenizer, MASK) == (gone, free)  # its config was told
    del model.config.delete_token_id, model.config.insert_token_id
    model.config.split_token_id = free  # as LLaDA2.2's has it
    assert control_tokens(lcs(delete_token_id=gone), model, tokenizer, MASK) == (gone, free)
    del model.config.insert_token_id, model.config.split_token_id, model.config.delete_token_id
    found = control_tokens(lcs(), model, tokenizer, MASK)
    assert found == (tokenizer.convert_tokens_to_ids("<|del|>"), insert) and found.delete == free
    assert control_tokens(EditOptions(labels="levenshtein"), model, tokenizer, MASK).ids == (free,)
    assert control_tokens(EditOptions(), model, tokenizer, MASK) is None


def test_llada2_2s_ids_are_spare_rows(tokenizer):
    model = family_model("sdar", vocab=156932, size=4, block_size=4)
    assert control_tokens(lcs(), model, copy.deepcopy(tokenizer), MASK) == (156930, 156931)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"delete_token_id": 999}, "delete_token_id=999 is no id of this model, which has 260"),
        ({"delete_token_id": 257}, "delete_token_id=257 is the mask already"),
        ({"insert_token_id": "<eos>"}, "insert_token_id=256 is EOS already"),
        ({"insert_token_id": 65}, "insert_token_id=65 is the text"),
        ({"delete_token_id": "<x>", "insert_token_id": "<x>"}, "is delete_token_id already"),
        ({"delete_token_id": "<|role_end|>"}, "delete_token_id=258 is EOS already"),
        (
            {"insert_token_id": "<note>"},
            "insert_token_id=259 is the special token '<note>' already",
        ),
        ({"delete_token_id": -5}, "delete_token_id='-5' is neither an id nor the text of a token"),
        ({"delete_token_id": " "}, "delete_token_id=' ' is neither an id nor the text of a token"),
    ],
)
def test_ids_in_use_are_refused(tokenizer, ids, message):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template += "<note>"
    with pytest.raises(ValueError, match=message):
        control_tokens(lcs(**ids), small(tokenizer), tokenizer, MASK)


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_control_tokens_are_not_adapted_too(tokenizer, tied):
    model = small(tokenizer, tie_word_embeddings=tied)
    with pytest.raises(ValueError, match="LoRA target 'lm_head' has rows of control tokens"):
        add_lora(model, rank=2, targets=["q_proj", "lm_head"], tokens=(4, 5))


@pytest.mark.parametrize("tied", [False, True])
def test_rows_train_as_in_peft_and_are_merged_by_a_decoder(tokenizer, tied, tmp_path):
    """Gradients and logits are those of peft's own layers, which copy the table."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    from fastedit import Decoder
    from fastedit.training.runs.trainer import save_weights

    pytest.importorskip("peft")
    base = small(tokenizer, tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.save_pretrained(tmp_path / "base")
    control = control_tokens(lcs(), base, tokenizer, MASK)
    model = add_lora(base, rank=2, tokens=control.ids)
    rows = {n: p for n, p in model.named_parameters() if "trainable_tokens" in n}
    assert len(rows) == 2 - tied and all(p.requires_grad for p in rows.values())
    with torch.no_grad():
        for p in rows.values():
            p.normal_()
    ids = torch.tensor([[5, *control.ids, 7]])

    def look():
        logits = model(input_ids=ids).logits
        return logits, *torch.autograd.grad(logits.square().sum(), list(rows.values()))

    found = look()
    layers = [m for m in model.modules() if isinstance(m, TrainableTokensLayer)]
    assert layers and all(type(layer) is not TrainableTokensLayer for layer in layers)
    for layer in layers:
        layer.__class__ = TrainableTokensLayer
    for mine, theirs in zip(found, look(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)

    save_weights(model, tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    decoder = Decoder.from_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")
    logits = decoder.model(input_ids=ids).logits
    torch.testing.assert_close(logits, found[0], rtol=1e-4, atol=1e-4)
    out = decoder.generate("ab", policy="joint_threshold_indel", max_new_tokens=4)
    assert not set(out.sequences[0].tolist()).intersection(control.ids)


def test_ids_beside_an_adapter_that_are_none_are_refused(tmp_path):
    from fastedit.models.adapters import tell_control_tokens
    from fastedit.models.adapters.control_tokens import FILE

    (tmp_path / FILE).write_text('{"delete_token_id": "x"}')
    with pytest.raises(ValueError, match="does not hold delete_token_id"):
        tell_control_tokens(object(), tmp_path, "a")
