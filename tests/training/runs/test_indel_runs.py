"""A run with labels=lcs, from the command to a decoder that needs no ids of control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from family_models import family_model

pytest.importorskip("peft")

from fastedit import Decoder
from fastedit.cli import main


@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_what_was_trained_decodes_with_its_own_tokens(rank, tokenizer, tmp_path, capfd):
    base, output, data = tmp_path / "base", tmp_path / "run", tmp_path / "data.jsonl"
    model = family_model("sdar", vocab=260, block_size=4, eos_token_id=256, mask_token_id=257)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    lines = [{"prompt": f"{n:02}?", "completion": f"<|ins|>{n:02}{n:02}!"} for n in range(24)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["train", "--checkpoint", base, "--data", data, "--output", output]
    arguments += ["--labels", "lcs", "--set", "edit.turn_threshold=0.005", "--lora-rank", rank]
    arguments += ["--steps", 2, "--batch-size", 4, "--max-length", 64, "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    said = capfd.readouterr().err
    assert "--policy joint_threshold_indel" in said.splitlines()[-1]

    records = [json.loads(x) for x in (output / "metrics.jsonl").read_text().splitlines()]
    assert all(record["delete_labels"] > 0 for record in records)
    assert all(0 < record["labels_share"] < 1 for record in records)
    facts = json.loads((output / "run.json").read_text())["options"]["edit"]
    assert (facts["labels"], facts["turns"], facts["grad_rounds"]) == ("lcs", 3, "all")

    result = {"adapter": output / "adapter"} if rank else {}
    decoder = Decoder.from_pretrained(base if rank else output / "checkpoint", **result)
    config = decoder.model.config
    assert (config.delete_token_id, config.insert_token_id, config.vocab_size) == (260, 261, 262)
    out = decoder.generate("01?", policy="joint_threshold_indel", max_new_tokens=8)
    assert not {257, 260, 261}.intersection(out.sequences[0].tolist())


def test_models_with_full_attention_are_refused(tokenizer, tmp_path: Path):
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    family_model("llada", vocab=260).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    edit, data = {"labels": "lcs"}, str(tmp_path / "data.jsonl")
    values = {"checkpoint": str(tmp_path / "base"), "data": data, "output": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="labels=lcs are for block-causal models"):
        run(RunOptions.from_mapping({**values, "edit": edit, "device": "cpu"}))
