"""Checkpoints of other families, as they stand on the Hub: in, through a forward, and out again."""

from __future__ import annotations

import copy
import io
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from family_cases import FAMILIES, GOLDEN, OPTIONS, config_of, decoder, forwards
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from fastedit import Decoder
from fastedit.models.families import family_of, row_of
from fastedit.models.hub.modeling import model_class


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@torch.no_grad()
def test_logits_are_those_of_the_released_code(family):
    model, found = decoder(family).model, forwards(family)
    assert found
    for name, (arguments, logits, counted) in found.items():
        mine = model(**arguments).logits
        torch.testing.assert_close(mine[counted], logits[counted], rtol=0, atol=1e-4, msg=name)


@torch.no_grad()
def test_eager_attention_and_an_added_mask_are_the_same(family):
    model = Decoder.from_pretrained(GOLDEN / family, device="cpu").model
    arguments, logits, _ = next(iter(forwards(family).values()))
    mask = arguments.get("attention_mask")
    if mask is None:
        length = arguments["input_ids"].shape[1]
        mask = torch.ones(1, 1, length, length, dtype=torch.bool)
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    mine = model(input_ids=arguments["input_ids"], attention_mask=added).logits
    torch.testing.assert_close(mine, logits, rtol=0, atol=1e-4)
    model.set_attn_implementation("eager")
    mine = model(**arguments).logits
    torch.testing.assert_close(mine, logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_without_a_mask_a_model_sees_what_its_family_sees(family):
    """The last token changes what comes before it, and where blocks are causal only its block."""
    made = decoder(family)
    length = made.family.block_length or made.model.config.block_size
    ids = forwards(family).popitem()[1][0]["input_ids"][:1, :24]
    ids = torch.cat([ids, ids], dim=1)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 100
    before, after = (made.model(input_ids=x).logits for x in (ids, other))
    changed = (before != after).any(-1)[0]
    first = 0
    if made.family.attention == "block_causal":
        first = (ids.shape[1] - 1) // length * length
    assert not changed[:first].any() and changed[first:].all()
    trunk = made.model.model(input_ids=ids).last_hidden_state
    assert torch.equal(made.model.lm_head(trunk), before)


@torch.no_grad()
def test_documents_packed_by_positions_stay_apart(family):
    model = decoder(family).model
    one = forwards(family).popitem()[1][0]["input_ids"][:1, :16]
    both, positions = torch.cat([one, one.flip(1)], dim=1), torch.arange(16).repeat(2)[None]
    packed = model(both, position_ids=positions).logits
    apart = torch.cat([model(one).logits, model(one.flip(1)).logits], dim=1)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("keep", [0, 5, torch.tensor([2, 7, 11])])
def test_the_loss_is_of_the_tokens_that_rows_predict(family, keep):
    model = decoder(family).model
    ids = forwards(family).popitem()[1][0]["input_ids"]
    labels = ids.clone()
    labels[:, 3] = -100
    predicted = labels
    if family in ("dream", "fast_dllm_v2"):
        predicted = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    kept = keep if isinstance(keep, torch.Tensor) else slice(-keep, None)
    logits = model(ids).logits[:, kept]
    expected = F.cross_entropy(logits.flatten(0, 1), predicted[:, kept].flatten())
    torch.testing.assert_close(model(ids, labels=labels, logits_to_keep=keep).loss, expected)
    with pytest.raises(ValueError, match="labels must be"):
        model(ids, labels=labels[:, :-1])


@torch.no_grad()
def test_models_and_configs_can_be_pickled_and_copied(family):
    model = decoder(family).model
    ids = forwards(family).popitem()[1][0]["input_ids"]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = [torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model))]
    for other in (*again, copy.deepcopy(model)):
        assert type(other) is type(model) and torch.equal(other(ids).logits, model(ids).logits)
    config = pickle.loads(pickle.dumps(model.config))
    assert type(config) is type(model.config)
    assert config.to_diff_dict() == model.config.to_diff_dict()


def test_saved_again_it_is_the_checkpoint_that_was_read(family, tmp_path):
    decoder(family).model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == config_of(family)
    generation = GOLDEN / family / "generation_config.json"
    if generation.exists():
        texts = (tmp_path / "generation_config.json").read_text(), generation.read_text()
        # Older transformers write a key of their own: `_commit_hash`.
        written, read = (
            {k: v for k, v in json.loads(text).items() if k != "_commit_hash"} for text in texts
        )
        assert written == read
    original = load_file(GOLDEN / family / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], x) for name, x in original.items())


def test_shards_in_bf16_and_a_change_of_the_config(family, tmp_path):
    model = Decoder.from_pretrained(GOLDEN / family, dtype="bfloat16", device="cpu").model
    model.config.eos_token_id = model.generation_config.eos_token_id = 3
    model.save_pretrained(tmp_path / "first", max_shard_size="100KB")
    assert len(list((tmp_path / "first").glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert config == config_of(family) | {"eos_token_id": 3, "torch_dtype": "bfloat16"}
    generation = json.loads((tmp_path / "first" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 3
    again = Decoder.from_pretrained(tmp_path / "first", device="cpu").model
    assert again.dtype == torch.bfloat16
    again.save_pretrained(tmp_path / "second")
    saved = load_file(tmp_path / "second" / "model.safetensors")
    for name, tensor in load_file(GOLDEN / family / "model.safetensors").items():
        assert torch.equal(saved[name], tensor.bfloat16()), name


def test_it_generates_by_the_rule_it_was_released_with(family):
    made = decoder(family)
    assert family_of(made.model) == made.family
    prompts = [torch.arange(3, 12), torch.arange(20, 33)]
    options = {"max_new_tokens": 12, "eos_token_id": [], **OPTIONS.get(family, {})}
    together = made.generate(prompts, **options)
    for prompt, ids in zip(prompts, together.sequences, strict=True):
        assert len(ids) == 12
        assert torch.equal(made.generate(prompt, **options).sequences[0], ids)


@pytest.mark.parametrize("change", ["missing", "unknown", "wrong shape"])
def test_every_tensor_is_accounted_for(family, change, tmp_path):
    tensors = load_file(GOLDEN / family / "model.safetensors")
    name = next(name for name in tensors if ".1." in name and "q_proj" in name)
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        name = name.replace("q_proj", "z_proj")
        tensors[name] = torch.zeros(2)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_of(family)))
    with pytest.raises(ValueError, match=f"{change}: {name}"):
        Decoder.from_pretrained(tmp_path)


def test_nothing_generates_from_left_to_right(family):
    model = decoder(family).model
    with pytest.raises(ValueError, match=r"fastedit\.Decoder"):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=2)


def byte_level(folder, name: str, code: bool) -> None:
    """The files of a byte-level tokenizer, as its makers publish them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"content": "<|mask|>", "special": True, "lstrip": False, "rstrip": False}
    special |= {"normalized": False, "single_word": False}
    config = {"tokenizer_class": name, "mask_token": "<|mask|>", "pad_token": "<|mask|>"}
    config |= {
        "added_tokens_decoder": {"256": special},
        "chat_template": "{{ messages[0].content }}",
    }
    if code:
        config["auto_map"] = {"AutoTokenizer": [f"tokenization_own.{name}", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("name", "code"), [("DreamTokenizer", True), ("Qwen2Tokenizer", False)])
def test_a_tokenizer_is_read_without_running_its_code(name, code, tmp_path, recwarn):
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "mask_token_id": 256}
    sizes |= {"eos_token_id": 3, "bos_token_id": 3, "pad_token_id": 3}
    kind = model_class(row_of(config_of("dream")))
    kind(kind.config_class.from_dict(config_of("dream") | sizes)).save_pretrained(tmp_path)
    byte_level(tmp_path, name, code)
    made = Decoder.from_pretrained(tmp_path, device="cpu")
    assert made.tokenizer.mask_token_id == 256 and made.tokenizer.chat_template
    assert made.tokenizer.decode(made.tokenizer("a Dream")["input_ids"]) == "a Dream"
    assert not [w for w in recwarn if "no tokenizer" in str(w.message)]
    assert isinstance(made.generate("abc", max_new_tokens=4).texts[0], str)
