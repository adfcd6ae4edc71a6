"""The next-token head by itself, and as part of a checkpoint: ME-DLM's second head."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastedit import Decoder, policies
from fastedit.heads import NextTokenHead, NextTokenHeadConfig
from fastedit.models.described import describe
from fastedit.models.families import row_of
from fastedit.models.hub.modeling import model_class

LLADA = Path(__file__).parents[1] / "golden" / "families" / "llada"
LLADA_8B = {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32}
LLADA_8B |= {"mlp_hidden_size": 12288, "embedding_size": 126464, "vocab_size": 126464}
OPTIONS = {"max_new_tokens": 12, "seed": 1}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.from_pretrained(LLADA, device="cpu")


def another(head: torch.nn.Linear) -> torch.Tensor:
    """Weights that say other tokens than the first head's."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(head.weight.shape, generator=generator)


def policy(most: int = 40) -> policies.MEDLM:
    return policies.MEDLM(mask_steps=3, edit_steps=4, max_length=most, delete_token_id=3)


def test_it_begins_as_the_output_embedding(decoder):
    model = decoder.model
    head = NextTokenHead.of(model)
    output = model.get_output_embeddings()
    hidden = torch.randn(2, 3, model.config.hidden_size)
    assert head(hidden).equal(output(hidden))
    assert head.config.base == {
        "model_type": "llada",
        "num_hidden_layers": 3,
        "vocab_size": model.config.vocab_size,
    }
    assert head.out.weight.data_ptr() != output.weight.data_ptr() and head.out.weight.requires_grad
    with pytest.raises(ValueError, match="no output embedding"):
        NextTokenHead.of(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="vocab_size must be an integer of at least 1"):
        NextTokenHeadConfig(16, 0)


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size"])
def test_a_head_of_other_sizes_is_refused(decoder, name):
    """Ids that the model does not have would be inserted."""
    sizes = {key: getattr(decoder.model.config, key) for key in ("hidden_size", "vocab_size")}
    for other in (sizes[name] - 8, sizes[name] + 8):
        head = NextTokenHead(NextTokenHeadConfig(**sizes | {name: other}))
        with pytest.raises(ValueError, match=f"{name}={other}, and this one has {name}="):
            Decoder(decoder.model, head=head).generate([[5]], policy=policy(), **OPTIONS)


def test_a_stored_head_decodes_as_the_object(decoder, tmp_path):
    model, prompts = decoder.model, [torch.tensor([5, 6, 7]), torch.tensor([9])]
    head = NextTokenHead.of(model)
    with torch.no_grad():
        head.out.weight.copy_(another(head.out))
    head.save_pretrained(tmp_path)
    again = NextTokenHead.from_pretrained(tmp_path)
    assert again.config == head.config and again.out.weight.equal(head.out.weight)
    by_object = Decoder(model, head=head).generate(prompts, policy=policy(), **OPTIONS)
    for other in (
        Decoder(model, head=tmp_path),
        Decoder.from_pretrained(LLADA, head=tmp_path, device="cpu"),
    ):
        out = other.generate(prompts, policy=policy(), **OPTIONS)
        for ids, want in zip(out.sequences, by_object.sequences, strict=True):
            assert ids.equal(want)
    assert sum(stats.inserts for stats in by_object.stats) > 0
    half = Decoder(copy.deepcopy(model).bfloat16(), head=tmp_path)
    assert half.head.out.weight.dtype == torch.bfloat16


def test_a_head_of_another_model_is_refused(decoder, tmp_path):
    head = NextTokenHead(NextTokenHeadConfig(8, 192))
    with pytest.raises(ValueError, match="made for a model with hidden_size=8"):
        Decoder(decoder.model, head=head)
    with pytest.raises(TypeError, match="a CorrectionHead, a NextTokenHead"):
        Decoder(decoder.model, head=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="needs the scores of a correction head"):
        Decoder(decoder.model, head=NextTokenHead.of(decoder.model)).generate(
            [[5]], policy="correction"
        )
    with pytest.raises(FileNotFoundError):
        Decoder(decoder.model, head=tmp_path)


@pytest.mark.parametrize("name", ["model.transformer.ff_out_next.weight", "edit_head.weight"])
def test_a_checkpoint_with_a_second_head_is_medlm(decoder, tmp_path, name, caplog):
    """Whatever its matrix is called: it is the one more that has the first head's shape."""
    folder = tmp_path / "medlm"
    shutil.copytree(LLADA, folder, copy_function=shutil.copyfile)
    weights = load_file(folder / "model.safetensors")
    second = another(decoder.model.get_output_embeddings())
    save_file(weights | {name: second}, folder / "model.safetensors", metadata={"format": "pt"})
    told = describe(folder)
    loaded = Decoder.from_pretrained(folder, device="cpu")
    model = loaded.model
    assert told.parameters == sum(p.numel() for p in model.parameters())
    assert told.family.policy == loaded.family.policy
    assert model.next_token_head.weight.equal(second)
    assert loaded.family.policy == "me_dlm" and "UNEXPECTED" not in caplog.text
    assert model.get_output_embeddings().weight.equal(weights["model.transformer.ff_out.weight"])
    head = NextTokenHead.of(decoder.model)
    with torch.no_grad():
        head.out.weight.copy_(second)
    prompt = torch.tensor([5, 6, 7])
    want = Decoder(decoder.model, head=head).generate(prompt, policy=policy(), **OPTIONS)
    out = loaded.generate(prompt, policy=policy(), **OPTIONS)
    assert out.sequences[0].equal(want.sequences[0]) and out.stats == want.stats
    assert loaded.generate(prompt, **OPTIONS).stats[0].forwards > 12  # a mask each, and edits

    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["next_token_head"]
    again = Decoder.from_pretrained(tmp_path / "saved", device="cpu")
    saved = describe(tmp_path / "saved")
    assert (saved.parameters, saved.family.policy) == (told.parameters, "me_dlm")
    assert again.model.next_token_head.weight.equal(second) and again.family == loaded.family

    for wrong in ({"a": second, "b": second + 1}, {"a": second[1:].clone()}):
        save_file(weights | wrong, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match="unknown: a"):
            Decoder.from_pretrained(folder, device="cpu")


def test_published_sizes_with_a_second_head_and_one_more_row():
    """LLaDA-8B with `<|del|>`, and a head for the next token."""
    config = json.loads((LLADA / "config.json").read_text()) | LLADA_8B
    kind = model_class(row_of(config), "llada")

    def made(**more):
        with torch.device("meta"):
            return kind(kind.config_class.from_dict(config | more))

    plain = made()
    model = made(embedding_size=126465, vocab_size=126465, next_token_head=True)
    count = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in plain.parameters()) == 8_015_581_184
    assert count == 8_015_581_184 + 2 * 4096 + 126465 * 4096
    shapes = model.published_shapes()
    assert shapes.keys() - plain.published_shapes().keys() == {"next_token_head.weight"}
    assert shapes["next_token_head.weight"] == (126465, 4096)
    found = plain.published_shapes() | {"lm_head_next.weight": (126464, 4096)}
    plain.check_tensors(found)
    assert plain.second_head(found) == "lm_head_next.weight"


def test_the_ids_of_a_published_checkpoint_come_from_its_tokenizer(decoder):
    """`<|del|>` is a token; padding and end are those of the model's config."""
    from fastedit.config import DecodeConfig
    from fastedit.request.settled import Settled

    class Named:
        eos_token_id, pad_token_id = 1, 2

        def get_vocab(self):
            return {"<|del|>": 7}

    head = NextTokenHead.of(decoder.model)
    settled = Settled(decoder.model, Named(), decoder.family, head)
    config = decoder.model.config
    for text, options, want in (
        ("me_dlm", {}, (7, config.pad_token_id, config.eos_token_id)),
        ("me_dlm:delete_token_id=4,pad_token_id=5", {}, (4, 5, config.eos_token_id)),
        ("me_dlm", {"eos_token_id": [8, 9]}, (7, config.pad_token_id, 8)),
        ("me_dlm", {"eos_token_id": []}, (7, config.pad_token_id, None)),
    ):
        rule, _ = settled.rule_and_mask(DecodeConfig(policy=text, **options))
        assert (rule.delete_token_id, rule.pad_token_id, rule.eos_token_id) == want
