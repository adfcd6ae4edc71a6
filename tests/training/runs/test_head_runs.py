"""Runs of a correction head: what they write, resumed ones, several processes, the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_processes import LAUNCH, free_port, records, whole_numbers
from transformers import TrainerCallback

pytest.importorskip("accelerate")
pytest.importorskip("reasoning_gym")

from fastedit.heads import CorrectionHead
from fastedit.training.runs.run import run
from fastedit.training.runs.settings import RunOptions

OPTIONS = {
    "checkpoint": "tiny",
    "data": ["task:leg_counting,examples=20"],
    "head": "correction",
    "steps": 4,
    "batch_size": 4,
    "max_length": 64,
    "packing": False,
    "save_every": 2,
    "eval_every": 2,
    "eval_examples": 3,
    "correction": {"delta_t": 0.9, "tokens": "sample", "temperature": 3.0, "width": 32, "depth": 1},
}


def train(output: Path, resume: bool = False, callbacks=(), say=print, **changes) -> Path:
    values = {**OPTIONS, "device": "cpu", "output": str(output), **changes}
    return run(RunOptions.from_mapping(values), resume=resume, callbacks=callbacks, say=say)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "head" / "correction_head.safetensors")


def without_speed(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    assert train(output) == output / "head"
    return output


def test_what_a_run_writes(alone):
    head = CorrectionHead.from_pretrained(alone / "head")
    assert (head.config.width, head.config.depth, head.config.attention) == (32, 1, "block")
    assert head.config.base == {
        "model_type": "llada2_moe",
        "num_hidden_layers": 4,
        "vocab_size": 595,
    }
    assert not (alone / "samples.jsonl").exists()  # a head decodes nothing
    assert {path.name for path in alone.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    lines = records(alone, "metrics")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["draft_error_rate"] > 0 and line["labels"] > 50 for line in lines)
    wrong = lines[0]["error_share"]  # of a new head: all logits are near 0, and errors weigh more
    without_skill = math.log(2) * (1 - wrong + max(wrong, 1 - wrong))
    assert lines[0]["loss"] == pytest.approx(without_skill, rel=0.1)
    for line in records(alone, "validation"):
        names = ("bce", "auroc", "auprc", "ece", "recall", "error_share")
        assert all(0 <= line[f"eval_{name}"] <= 1.5 for name in names)
        assert line["eval_loss"] == pytest.approx(line["eval_bce"], rel=1e-5)
    facts = json.loads((alone / "run.json").read_text())["options"]
    settled = facts["correction"]
    assert (settled["unit"], settled["scope"], facts["learning_rate"]) == ("block", "visible", 3e-4)


class Killed(Exception):
    """What stops a run in a test."""


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise Killed


def test_a_resumed_run_is_the_same(alone, tmp_path):
    """Stopped behind step 3, so it goes on from the checkpoint of step 2; then nothing is left."""
    with pytest.raises(Killed):
        train(tmp_path, callbacks=[Kill()])
    for _ in range(2):
        train(tmp_path, resume=True)
        for name in ("metrics", "validation"):
            assert without_speed(records(tmp_path, name)) == without_speed(records(alone, name))
        for key, tensor in weights(alone).items():
            assert torch.equal(weights(tmp_path)[key], tensor)


def test_a_run_without_an_error_to_learn_from_says_what_to_change(tmp_path):
    told = []
    correction = {"delta_t": 1 / 32, "count": 1, "width": 32, "depth": 1}
    data = ["task:chain_sum,examples=4"]
    train(tmp_path / "run", say=told.append, steps=1, data=data, correction=correction)
    assert "was wrong, so the head has learnt to trust everything" in told[-1]
    assert "correction.delta_t=0.5" in told[-1]


def test_a_head_that_diverges_between_two_steps_is_not_saved(tmp_path):
    """The loss of step 1 is finite; what the step makes of the weights is not."""
    with pytest.raises(FloatingPointError, match="eval_loss is nan at step 1: start anew, with a"):
        train(tmp_path, learning_rate=1e30, eval_every=1, save_every=1)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_sharded_model_is_refused_before_there_is_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"beside a whole model: use ddp\.yaml"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_options_do_not_resume(alone):
    with pytest.raises(ValueError, match=r"correction\.delta_t=0\.9, not 0\.5"):
        train(alone, resume=True, correction={**OPTIONS["correction"], "delta_t": 0.5})


def test_micro_batches_change_nothing(alone, tmp_path):
    """The weight of errors is that of the whole step, whichever rows are read together."""
    train(tmp_path, micro_batch=1, eval_every=4)
    for one, two in zip(records(alone, "metrics"), records(tmp_path, "metrics"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert whole_numbers(two) == whole_numbers(one)


@pytest.mark.slow
def test_two_processes_train_as_one(alone, tmp_path):
    """Each takes 2 rows per step in 2 micro-batches; validation's 3 rows do not split evenly."""
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({**OPTIONS, "micro_batch": 1, "device": "cpu"}))  # JSON is YAML
    launcher = ["accelerate.commands.launch", "--config_file", LAUNCH / "ddp_cpu.yaml"]
    launcher += ["--main_process_port", str(free_port()), "-m", "fastedit", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "--config", config, "--output", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "errors found" in done.stderr and "--policy correction --head" in done.stderr
    for name, loss in (("metrics", "loss"), ("validation", "eval_auroc")):
        for one, two in zip(records(alone, name), records(tmp_path, name), strict=True):
            assert two[loss] == pytest.approx(one[loss], rel=1e-3)
            assert whole_numbers(two) == whole_numbers(one)
    for key, tensor in weights(alone).items():
        torch.testing.assert_close(weights(tmp_path)[key], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "next"}, "head='next' must be correction, or left out"),
        ({"edit": {"t2t": "random"}}, "edit says nothing of a head's training"),
        ({"lora_rank": 8}, "lora_rank says nothing of a head's training"),
        ({"head": None}, "correction says nothing without --head correction"),
        ({"correction": {"colour": 1}}, r"unknown option correction\.colour; known: correction\.t"),
        ({"correction": "fca"}, "correction='fca' must be a mapping of its options"),
        ({"correction": {"targets": "dsc"}}, "targets must be one of fca, filling, prism"),
    ],
)
def test_bad_options_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        RunOptions.from_mapping({**OPTIONS, **values})
