"""What `Decoder.from_pretrained` refuses before it loads anything, and how it names it."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("peft")

from fastedit import Decoder


@pytest.fixture
def offline(monkeypatch):
    """A Hub that gives nothing; what was asked of it."""
    import huggingface_hub
    import transformers

    asked = []

    def refuse(error):
        def give(*arguments, **_):
            asked.append(arguments[-1])
            raise error

        return give

    no_model, no_adapter = OSError("no connection"), OSError("no such repository")
    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", refuse(no_model))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse(no_adapter))
    return asked


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("tinny", "no checkpoint 'tinny' here: did you mean 'tiny'"),
        ("Tiny", "did you mean 'tiny'"),
        ("nosuch", "no checkpoint 'nosuch' here: ids on the Hub are owner/name"),
        ("./tiny", "checkpoint './tiny' is not a folder"),
        ("runs/checkpoint", "checkpoint 'runs/checkpoint' is not a folder"),
        ("a/b/c", "checkpoint 'a/b/c' is not a folder"),
        ("notes", "checkpoint 'notes' is not a folder"),
    ],
)
def test_a_missing_folder_is_not_looked_for_on_the_hub(
    offline, tmp_path, monkeypatch, checkpoint, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "notes").write_text("")
    with pytest.raises(FileNotFoundError, match=words):
        Decoder.from_pretrained(checkpoint)
    assert not offline


@pytest.mark.parametrize("adapter", ["./adapter", "runs/adapter", "a/b/adapter"])
def test_a_missing_adapter_is_found_before_the_model_is_loaded(
    offline, tmp_path, monkeypatch, adapter
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match=f"adapter '{adapter}' is not a folder"):
        Decoder.from_pretrained("tiny", adapter=adapter)
    assert not offline


def test_what_the_hub_does_not_give_is_named(offline):
    with pytest.raises(OSError, match=r"checkpoint 'some/model'.* \(no connection\).*\"tiny\""):
        Decoder.from_pretrained("some/model")
    with pytest.raises(OSError, match=r"adapter 'some/lora'.* \(no such repository\)"):
        Decoder.from_pretrained("tiny", adapter="some/lora")
    assert offline == ["some/model", "some/lora"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "device='gpu' cannot be used here .*'auto'"),
        ({"device": "cuda:77"}, "device='cuda:77' cannot be used here .*'auto'"),
        ({"dtype": "fp33"}, "dtype must be auto, float32, bfloat16 or float16; got 'fp33'"),
        ({"dtype": "int8"}, "got 'int8'"),
    ],
)
def test_a_device_or_dtype_that_cannot_be_is_named(offline, options, words):
    with pytest.raises(ValueError, match=words):
        Decoder.from_pretrained("tiny", **options)
    assert not offline


def test_an_adapter_is_merged_without_a_warning_about_checkpointing(tmp_path):
    from peft import LoraConfig, get_peft_model

    decoder = Decoder.from_pretrained("tiny", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = LoraConfig(target_modules=["query_key_value"])
        get_peft_model(decoder.model, lora).save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Decoder.from_pretrained("tiny", adapter=str(tmp_path), device="cpu")
    assert not [w for w in seen if "checkpointing" in str(w.message)]
