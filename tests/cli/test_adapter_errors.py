"""`--adapter` of a folder that cannot be merged: one line, exit code 2, and nothing printed."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("peft")

import peft


@pytest.fixture
def adapter(checkpoint, tmp_path):
    from fastedit import Decoder

    model = Decoder.from_pretrained(checkpoint, device="cpu").model
    config = peft.LoraConfig(target_modules=["dense"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


COMMANDS = {
    "generate": ("generate", "hello", "--max-new-tokens", 8),
    "eval": ("eval", "--n", 1, "--max-new-tokens", 8),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_merged_is_one_line(run, checkpoint, adapter, command):
    arguments = (*COMMANDS[command], "--checkpoint", checkpoint, "--adapter", adapter)
    assert run(*arguments)[0] == 0
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    content, options = weights.read_bytes(), json.loads(config.read_text())

    def refused(words):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and words in " ".join(err.split())
        assert "Traceback" not in err

    weights.write_bytes(content[:-1])
    refused("truncated or damaged")
    weights.write_bytes(content)
    config.write_text(json.dumps(options | {"r": 3}))
    refused("wrong shape: model.layers.0.attention.dense.lora_A.weight is [8, 32], here [3, 32]")
    config.write_text(json.dumps(options | {"peft_type": "PREFIX_TUNING"}))
    refused("type PREFIX_TUNING")
    config.write_text(json.dumps(options | {"target_modules": ["nothing"]}))
    refused("cannot be merged into this model")
    config.unlink()
    refused("has no adapter_config.json")
