"""What of an adapter is refused: in one line that names it, before any weight is changed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("peft")

import peft
from adapting import (
    CONFIG,
    GOLDEN,
    WEIGHTS,
    adapted,
    base,
    edit_config,
    edit_tensors,
    merged,
    saved,
)

from fastedit import Decoder
from fastedit.models.adapters import read_adapter

LINEAR = ["query_key_value", "dense"]


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": LINEAR} | options)


@pytest.fixture
def folder(tmp_path):
    return saved(adapted(base(), lora()), tmp_path / "adapter")


def refused(folder, words, error=ValueError):
    """The Decoder says `words`, in one line."""
    with pytest.raises(error, match=words) as raised:
        Decoder.from_pretrained(GOLDEN.as_posix(), adapter=folder, device="cpu")
    assert "\n" not in str(raised.value)


def filtered(keep):
    return lambda tensors: {name: x for name, x in tensors.items() if keep(name)}


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): x for name, x in tensors.items()}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (renamed("attention", "self_attn"), r"12 of its 12 tensors have no place .*self_attn"),
        (renamed("layers.2.", "layers.3."), r"4 of its 12 tensors have no place .*layers\.3\."),
        (filtered(lambda name: "lora_A" in name), r"missing: .*lora_B\.weight"),
        (filtered(lambda name: "1.attention.dense.lora_B" not in name),
         r"missing: model\.layers\.1\.attention\.dense\.lora_B\.weight\."),
        (filtered(lambda name: "layers.2" not in name), r"missing: model\.layers\.2\.attention"),
        (lambda tensors: {name: x[:1] for name, x in tensors.items()},
         r"wrong shape: \S+lora_A\.weight is \[1, 64\], here \[4, 64\]"),
        (lambda tensors: tensors | {"head.scorer": torch.ones(1)}, "1 of its 13 .*head.scorer"),
        (lambda tensors: tensors | {"prompt_embeddings": torch.ones(4, 64)}, "prompt_embeddings"),
        (lambda tensors: {name: x / 0 for name, x in tensors.items()}, "NaN or infinity in "),
        (lambda tensors: tensors | {"model.norm.weight": torch.ones(63)}, "wrong shape: model."),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(folder, edit, words):
    refused(edit_tensors(folder, edit), words)


@pytest.mark.parametrize(
    ("made_on", "words"),
    [
        ({"num_hidden_layers": 5}, r"no place in it: \S+layers\.3\."),
        ({"num_hidden_layers": 2}, r"missing: model\.layers\.2\."),
        ({"hidden_size": 96}, r"wrong shape: .*, here \[4, 64\]"),
    ],
)
def test_an_adapter_of_another_model_is_refused(made_on, words, tmp_path):
    refused(saved(adapted(base(**made_on), lora()), tmp_path), words)


@pytest.mark.parametrize(
    "kind",
    [
        "PROMPT_TUNING",
        "PREFIX_TUNING",
        "P_TUNING",
        "MULTITASK_PROMPT_TUNING",
        "ADAPTION_PROMPT",
        "CPT",
        "XLORA",
        "POLY",
    ],
)
def test_kinds_that_do_not_become_weights_are_refused_by_name(folder, kind):
    edit_tensors(folder, lambda _: {"prompt_embeddings": torch.ones(4, 64)})
    refused(edit_config(folder, peft_type=kind), f"type {kind}, .*cannot be merged")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens=\[1, 2\]"),
        ({"layer_replication": [[0, 2], [1, 3]]}, r"layer_replication=\[\[0, 2\], \[1, 3\]\]"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"megatron_config": {"a": 1}}, "megatron_config="),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"arrow_config": {"top_k": 1}}, "arrow_config="),
        ({"use_newest_lora": True}, "uses use_newest_lora; .*upgrade peft"),
        ({"newest_config": {"a": 1}}, "uses newest_config; .*upgrade peft"),
        ({"peft_type": "NEWEST"}, "type NEWEST, which peft .*upgrade peft"),
        ({"peft_type": None}, "names no peft_type"),
        ({"use_dora": True, "target_parameters": ["experts.down_proj"]}, "LORA cannot be merged"),
        (
            {"target_modules": ["nothing"]},
            "of type LORA cannot be merged .*'nothing'.* its file has model.layers.0.*trained on",
        ),
        ({"modules_to_save": ["lm_head"]}, r"lm_head"),
        ({"r": 8}, r"wrong shape: .* is \[4, 64\], here \[8, 64\]"),
        ({"use_dora": True}, "missing: .*lora_magnitude_vector"),
    ],
)
def test_options_that_cannot_be_honoured_are_named(folder, options, words):
    refused(edit_config(folder, **options), words)


def test_options_of_a_newer_peft_that_switch_nothing_on_are_named(folder):
    edit_config(folder, newest_size=16, newest_flag=False, newest_config=None)
    with pytest.warns(UserWarning, match="newest_size=16; peft .*upgrade peft") as seen:
        merged(folder)
    assert not any("newest_flag" in str(warning.message) for warning in seen)


def test_files_that_are_missing_or_damaged_are_named(folder):
    weights = (folder / WEIGHTS).read_bytes()
    for content, words in [
        (weights[:-100], "truncated or damaged .*download"),
        (weights[:5], "truncated or damaged"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git-LFS .*git lfs pull"),
    ]:
        (folder / WEIGHTS).write_bytes(content)
        refused(folder, f"{WEIGHTS}: is .*{words}")
    save_file({}, folder / WEIGHTS)
    refused(folder, "holds no tensors")
    (folder / WEIGHTS).unlink()
    refused(folder, f"has no {WEIGHTS}: .*found none")
    torch.save({}, folder / "adapter_model.bin")
    refused(folder, "safetensors only, found adapter_model.bin: .*run code.*save_pretrained")
    config = json.loads((folder / CONFIG).read_text())
    (folder / WEIGHTS).write_bytes(weights)
    for option, value, words in [
        ("lora_alpha", float("nan"), "lora_alpha=nan, which is no finite number"),
        ("target_modules", "(", "cannot be merged"),
        ("rank_pattern", {"(": 2}, "cannot be merged"),
    ]:
        (folder / CONFIG).write_text(json.dumps(config | {option: value}))
        refused(folder, words)
    (folder / CONFIG).write_text('{"r": ')
    (folder / WEIGHTS).write_bytes(weights)
    refused(folder, f"{CONFIG}: is not JSON")
    (folder / CONFIG).unlink()
    refused(folder, f"has no {CONFIG}", FileNotFoundError)
    (folder / "config.json").write_text("{}")
    refused(folder, "a whole checkpoint", FileNotFoundError)


def test_several_adapters_in_one_folder_are_listed(folder, tmp_path):
    both = adapted(base(), lora())
    both.add_adapter("second", lora())
    refused(saved(both, tmp_path / "both"), "holds several adapters: .*second")
    for name in ("first", "second"):
        saved(both, tmp_path / "several" / name, selected_adapters=["default"])
    refused(tmp_path / "several", "several adapters: first, second; .*several/first")
    saved(both, folder / "checkpoint-10", selected_adapters=["default"])
    assert merged(folder)


def test_nothing_is_loaded_for_what_the_folder_alone_refuses(folder, monkeypatch):
    """A model of 100 billion parameters is not read for an adapter that cannot be merged."""
    import transformers

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    refused(edit_config(folder, peft_type="PREFIX_TUNING"), "PREFIX_TUNING")


def test_a_refused_adapter_changes_no_weight(folder):
    model = base()
    edit_tensors(folder, renamed("layers.2.", "layers.3."))
    with pytest.raises(ValueError, match="no place"):
        merged(folder, model)
    found, plain = model.state_dict(), base().state_dict()
    changed = {name.replace(".base_layer", ""): x for name, x in found.items()}
    assert all(torch.equal(changed[name], plain[name]) for name in plain)


def test_the_config_is_read_as_it_stands(folder):
    values = json.loads((folder / CONFIG).read_text())
    adapter = read_adapter(folder, "mine")
    assert (adapter.config.r, adapter.config.lora_alpha) == (values["r"], values["lora_alpha"])
    assert adapter.tensors().keys() == {
        f"base_model.model.model.layers.{layer}.attention.{name}.lora_{half}.weight"
        for layer in range(3)
        for name in LINEAR
        for half in "AB"
    }
