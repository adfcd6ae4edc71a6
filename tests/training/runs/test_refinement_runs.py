"""Runs of ME-DLM: both stages, what they write, resumed ones, several processes, decoding."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from family_models import family_model
from test_run_families import LAUNCH, free_port, options_of, records, weights, whole_numbers

from fastedit import Decoder
from fastedit.heads import NextTokenHead
from fastedit.training.options import EditOptions
from fastedit.training.refinement.options import RefinementOptions
from fastedit.training.runs.run import run

SHORT = RefinementOptions(edit_steps=6, fills=(4, 8))


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory) -> Path:
    """A LLaDA with a tokenizer of bytes and padding, which has no token that deletes."""
    folder, tokenizer = tmp_path_factory.mktemp("llada"), copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    ids = {"eos_token_id": tokenizer.eos_token_id, "mask_token_id": 257}
    family_model("llada", vocab=len(tokenizer), **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asked(checkpoint, tmp_path, t2t="self", refinement=SHORT, **others):
    edit = EditOptions(labels="levenshtein", t2t=t2t, noise="uniform(0.2,1)")
    given = {"edit": edit, "refinement": refinement, "packing": False, "lora_rank": 4}
    return options_of(checkpoint, tmp_path, **given | others)


@pytest.fixture(scope="module")
def stages(checkpoint, tmp_path_factory):
    """The mask stage, then the edit stage from its adapter and head: folders of both."""
    masks, edits = (tmp_path_factory.mktemp(name) for name in ("masks", "edits"))
    assert run(asked(checkpoint, masks, "none")) == masks / "run" / "adapter"
    assert run(asked(checkpoint, edits, refinement=replace(SHORT, start=str(masks / "run"))))
    return masks / "run", edits / "run"


def same_but_speed(one: list[dict], other: list[dict]) -> bool:
    speed = ("tokens_per_second", "drafts_share", "labels_share")
    plain = [
        [{k: v for k, v in line.items() if k not in speed} for line in x] for x in (one, other)
    ]
    return plain[0] == plain[1]


def test_what_the_stages_write(stages, checkpoint):
    masks, edits = stages
    facts = json.loads((edits / "run.json").read_text())["options"]
    assert facts["refinement"]["pad_token_id"] == 260  # the tokenizer's
    assert facts["refinement"]["eos_token_id"] == 256
    assert [line["edited_rows"] for line in records(masks, "metrics")] == [0.0] * 4
    lines = records(edits, "metrics")
    assert {line["edited_rows"] for line in lines} - {0.0}
    for step, line in enumerate(lines):  # floor(6 step / 4)
        assert line["edit_steps"] in (None, (0, 1, 3, 4)[step])
        assert line["labels"] == 4  # rows
        assert 0 <= line["labels_share"] < 0.5 and 0 <= line["drafts_share"] < 1
    edited = [line for line in lines if line["edited_rows"]]
    assert all(line["edit_loss"] > 0 and line["edit_next_loss"] > 0 for line in edited)
    assert all(line["masked_loss"] > 0 for line in records(masks, "metrics"))
    assert not any("share" in name for name in records(edits, "validation")[0])
    before, adapter = (weights(folder / "adapter") for folder in stages)
    assert before.keys() == adapter.keys()
    rows = {name: x for name, x in adapter.items() if "trainable_tokens" in name}
    assert len(rows) == 2 and all(x.shape == (1, 16) for x in rows.values())
    of_output = next(name for name in rows if "lm_head" in name)  # no text holds the token
    assert not torch.equal(rows[of_output], before[of_output])
    heads = [NextTokenHead.from_pretrained(folder / "head") for folder in stages]
    assert all(head.config.vocab_size == 262 for head in heads)
    assert not torch.equal(*(head.out.weight for head in heads))


def test_the_edit_stage_begins_where_the_mask_stage_ended(stages, checkpoint, tmp_path):
    """A step that moves nothing leaves the adapter and the head of the mask stage."""
    start = replace(SHORT, start=str(stages[0]))
    still = asked(checkpoint, tmp_path, refinement=start, steps=1, learning_rate=1e-12)
    folder = run(replace(still, eval_examples=0)).parent
    for name in ("adapter", "head"):
        for key, tensor in weights(stages[0] / name).items():
            torch.testing.assert_close(weights(folder / name)[key], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [4, 0])
def test_a_resumed_run_is_the_same_and_decodes(rank, stages, checkpoint, tmp_path):
    """The curriculum and both heads go on where they were."""
    options = asked(checkpoint, tmp_path, lora_rank=rank)
    result = run(options)
    folder = result.parent
    found = {name: weights(place) for name, place in (("model", result), ("head", folder / "head"))}
    logs = {name: records(folder, name) for name in ("metrics", "validation", "samples")}
    shutil.rmtree(folder / "checkpoint-4")
    run(options, resume=True)
    assert all(same_but_speed(records(folder, name), lines) for name, lines in logs.items())
    for name, place in (("model", result), ("head", folder / "head")):
        again = weights(place)
        assert all(torch.equal(again[key], x) for key, x in found[name].items())
    assert not any(line["text"].startswith("(") for line in logs["samples"])

    places = {"adapter": str(result)} if rank else {}
    decoder = Decoder.from_pretrained(
        str(checkpoint if rank else result), device="cpu", head=str(folder / "head"), **places
    )
    out = decoder.generate(
        "05?", policy="me_dlm:mask_steps=2,edit_steps=3", max_new_tokens=12, mask_token_id=257
    )
    assert out.stats[0].forwards <= 5 and len(out.sequences) == 1
    assert decoder.model.config.delete_token_id == 261


def test_what_cannot_go_on_is_refused(stages, checkpoint, tmp_path, monkeypatch):
    masks = str(stages[0])
    other = asked(checkpoint, tmp_path, refinement=replace(SHORT, start=masks), lora_rank=2)
    with pytest.raises(ValueError, match="was trained with r=4, and this run has 2"):
        run(other)
    with pytest.raises(FileNotFoundError, match=r"head. is not a folder: there is none"):
        run(asked(checkpoint, tmp_path, refinement=replace(SHORT, start=str(tmp_path))))
    with pytest.raises(ValueError, match="refinement says nothing without --labels lev"):
        options_of(checkpoint, tmp_path, refinement=SHORT)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"beside a whole model: use ddp\.yaml"):
        run(asked(checkpoint, tmp_path))
    assert not (tmp_path / "run" / "run.json").exists()


def test_micro_batches_change_nothing(stages, checkpoint, tmp_path):
    """One t per row, whichever rows are read together; drafts too."""
    masks, edits = stages
    start = replace(SHORT, start=str(masks))
    run(asked(checkpoint, tmp_path, refinement=start, micro_batch=1, eval_every=4))
    again = records(tmp_path / "run", "metrics")
    for one, two in zip(records(edits, "metrics"), again, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert whole_numbers(two) == whole_numbers(one)


@pytest.mark.slow
def test_two_processes_train_as_one(stages, checkpoint, tmp_path):
    masks, edits = stages
    options = asked(checkpoint, tmp_path, refinement=replace(SHORT, start=str(masks)))
    config = tmp_path / "run.yaml"
    values = {**asdict(options), "output": str(tmp_path / "two")}
    values["edit"] = {k: values["edit"][k] for k in ("labels", "t2t", "noise")}
    config.write_text(json.dumps(values))  # JSON is YAML
    launcher = ["accelerate.commands.launch", "--config_file", LAUNCH / "ddp_cpu.yaml"]
    launcher += ["--main_process_port", str(free_port()), "-m", "fastedit", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "--config", config],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "--policy me_dlm" in done.stderr
    for one, two in zip(
        records(edits, "metrics"), records(tmp_path / "two", "metrics"), strict=True
    ):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert whole_numbers(two) == whole_numbers(one)
    for name in ("adapter", "head"):
        ours, theirs = weights(edits / name), weights(tmp_path / "two" / name)
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=0, atol=1e-4)
