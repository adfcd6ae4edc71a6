"""A vocabulary that an adapter resized, and the tokenizer and chat template that lie beside it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

pytest.importorskip("peft")

import peft
from adapting import adapted, base, edit_tensors, logits, merged, saved
from transformers import AutoTokenizer

from fastedit import Decoder
from fastedit.models.load import TINY

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ["dense"]} | options)


def resized(size):
    model = base()
    model.resize_token_embeddings(size, mean_resizing=False)
    return model


WITH_ROWS = {
    "save_embedding_layers": (lora, {"save_embedding_layers": True}),
    "modules_to_save": (lambda: lora(modules_to_save=["word_embeddings", "lm_head"]), {}),
    "adapted": (
        lambda: lora(target_modules=["dense", "word_embeddings", "lm_head"]),
        {"save_embedding_layers": True},
    ),
    "tokens": (
        lambda: lora(
            trainable_token_indices={
                "word_embeddings": [3, *range(128, 140)],
                "lm_head": list(range(128, 140)),
            }
        ),
        {},
    ),
}


@pytest.mark.parametrize(
    ("kind", "size"),
    [(kind, size) for kind in WITH_ROWS for size in (140, 120) if (kind, size) != ("tokens", 120)],
)
def test_rows_of_another_vocabulary_are_used(kind, size, tmp_path):
    config, options = WITH_ROWS[kind]
    model = adapted(resized(size), config())
    found = merged(saved(model, tmp_path, **options))
    assert (
        found.config.vocab_size
        == size
        == found.lm_head.weight.shape[0]
        == found.lm_head.out_features
    )
    assert found.get_input_embeddings().weight.shape == (size, 64)
    ids = torch.randint(0, size, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits_found = model(input_ids=ids).logits, found(input_ids=ids).logits
    torch.testing.assert_close(logits_found, expected, rtol=1e-5, atol=1e-4)


def drop(part):
    return lambda tensors: {name: x for name, x in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("config", "edit", "words"),
    [
        (lambda: lora(target_modules=["dense", "lm_head"]), None, "rows of model.word_embeddings"),
        (lambda: lora(target_modules=["dense", "word_embeddings"]), None, "rows of model.word_emb"),
        (lambda: lora(modules_to_save=["word_embeddings"]), None, "rows of lm_head"),
        (lambda: lora(modules_to_save=["lm_head"]), None, "rows of model.word_embeddings"),
        (lambda: lora(trainable_token_indices=list(range(128, 140))), None, "rows of lm_head"),
        (lambda: lora(modules_to_save=["word_embeddings", "lm_head"]),
         lambda tensors: {n: x[:139] if "lm_head" in n else x for n, x in tensors.items()},
         "does not have the rows"),
    ],
)  # fmt: skip
def test_a_resized_vocabulary_without_its_rows_is_named(config, edit, words, tmp_path):
    folder = saved(adapted(resized(140), config()), tmp_path, save_embedding_layers=False)
    if edit:
        edit_tensors(folder, edit)
    with pytest.raises(ValueError, match=f"resized from 128 to 140, .*{words}.*save_embedding"):
        merged(folder)


@pytest.fixture
def beside(tmp_path):
    """An adapter of the embedded checkpoint, its folder."""
    return saved(adapted(Decoder.from_pretrained("tiny", device="cpu").model, lora()), tmp_path)


def test_the_tokenizer_beside_an_adapter_is_used(beside):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = "{{ 'mine: ' + messages[0].content }}"
    tokenizer.add_special_tokens({"cls_token": "<|role_end|>"})
    tokenizer.save_pretrained(beside)
    found = Decoder.from_pretrained("tiny", adapter=beside, device="cpu").tokenizer
    assert found.cls_token == "<|role_end|>" and found.mask_token == tokenizer.mask_token
    chat = [{"role": "user", "content": "1 + 1 ="}]
    assert found.apply_chat_template(chat, tokenize=False) == "mine: 1 + 1 ="
    (beside / "chat_template.jinja").unlink()  # then the checkpoint's
    found = Decoder.from_pretrained("tiny", adapter=beside, device="cpu").tokenizer
    assert found.cls_token == "<|role_end|>" and "HUMAN" in found.chat_template


@pytest.mark.parametrize(
    "file", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"]
)
def test_a_chat_template_alone_is_used(beside, file):
    template = "{{ 'mine: ' + messages[0].content }}"
    content = template if file.endswith("jinja") else json.dumps({"chat_template": template})
    (beside / file).write_text(content)
    found = Decoder.from_pretrained("tiny", adapter=beside, device="cpu").tokenizer
    assert found.chat_template == template and found.mask_token == "<|mask|>"


def test_what_a_tokenizer_does_not_say_is_as_in_the_checkpoint(beside):
    shutil.copy(TINY / "tokenizer.json", beside / "tokenizer.json")
    decoder = Decoder.from_pretrained("tiny", adapter=beside, device="cpu")
    plain = Decoder.from_pretrained("tiny", device="cpu").tokenizer
    assert len(decoder.tokenizer) == len(plain)
    for role in ("mask_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(decoder.tokenizer, role) == getattr(plain, role)


def test_a_larger_tokenizer_needs_rows(beside):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(beside)
    words = "resized from 595 to 597 ids by its tokenizer, .*save_embedding_layers=True"
    with pytest.raises(ValueError, match=words):
        Decoder.from_pretrained("tiny", adapter=beside, device="cpu")
    model = Decoder.from_pretrained("tiny", device="cpu").model
    model.resize_token_embeddings(597, mean_resizing=False)
    model = adapted(model, lora())
    saved(model, beside, save_embedding_layers=True)
    decoder = Decoder.from_pretrained("tiny", adapter=beside, device="cpu")
    assert decoder.model.config.vocab_size == 597 == len(decoder.tokenizer)
    torch.testing.assert_close(logits(decoder.model), logits(model), rtol=1e-4, atol=1e-3)
    assert decoder.generate("<new>", max_new_tokens=8).sequences


def test_tokenizer_files_that_do_not_load_are_named(beside):
    for name in TOKENIZER:
        shutil.copy(TINY / name, beside / name)
    (beside / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="its tokenizer files do not load"):
        Decoder.from_pretrained("tiny", adapter=beside, device="cpu")
    (beside / "tokenizer.json").unlink()
    (beside / "added_tokens.json").write_text("{}")
    with pytest.raises(ValueError, match=r"added_tokens\.json without the tokenizer"):
        Decoder.from_pretrained("tiny", adapter=beside, device="cpu")
