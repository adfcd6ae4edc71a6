"""`fastedit train`: options from three places, a whole run, and what a user did wrong."""

from __future__ import annotations

import json
import os

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("accelerate")

from fastedit.files.locks import locked_folder
from fastedit.training.runs.settings import RunOptions


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [{"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def chosen(monkeypatch):
    """The options that a command comes to, without the run."""
    found = []

    def run(options, **_):
        found.append(options)
        return options.output

    monkeypatch.setattr("fastedit.training.runs.run.run", run)
    return found


def test_a_run_and_its_adapter(run, checkpoint, data, tmp_path):
    output = tmp_path / "out"
    arguments = ("train", "--checkpoint", checkpoint, "--data", data, "--eval-data", data)
    arguments += ("--t2t", "random", "--steps", 2, "--output", output, "--seed", 1)
    arguments += ("--max-length", 64, "--batch-size", 2, "--device", "cpu", "--eval-every", 2)
    code, out, err = run(*arguments)
    assert code == 0 and out == ""
    assert "6 examples of" in err and "parameters train" in err
    assert "step 2/2: loss" in err and "validation at step 2" in err and "tokens/s" in err
    assert "example at step 2:" in err
    lines = (output / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    code, _, err = run(*arguments)
    assert code == 2 and "pass --resume" in err
    code, _, err = run(*arguments, "--resume")
    assert (
        code == 0 and "nothing is left to train: all 2 steps are done" in err and "result in" in err
    )
    code, out, _ = run(
        "generate", "2 + 1 =", "--checkpoint", checkpoint, "--adapter", output / "adapter",
        "--max-new-tokens", 32, "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["stats"]["tokens"] > 0


def test_flags_win_over_set_and_set_over_the_file(run, chosen, data, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"checkpoint: tiny\ndata: {data}\noutput: {tmp_path}\nsteps: 5\nseed: 3\n"
        "learning_rate: 1e-5\nbatch_size: 4\nedit:\n  t2t: none\n  r_edit: 0.2\n  p_random: 0.3\n"
    )
    code, _, err = run(
        "train", "--config", config, "--steps", 7, "--set", "batch_size=2", "--set", "steps=6",
        "--set", "edit.r_edit=0.4", "--set", "gradient_checkpointing=true", "--t2t", "random",
    )  # fmt: skip
    assert code == 0, err
    [options] = chosen
    assert (options.steps, options.batch_size, options.seed) == (7, 2, 3)
    assert options.learning_rate == 1e-5 and options.gradient_checkpointing is True
    edit = options.edit
    assert (edit.t2t, edit.r_edit, edit.p_random) == ("random", 0.4, 0.3)


def test_a_run_needs_no_more_than_a_checkpoint_and_data(
    run, checkpoint, data, tmp_path, monkeypatch
):
    """Steps that follow from the data, rows that the model has positions for, folder `run`."""
    monkeypatch.chdir(tmp_path)
    arguments = ("train", "--checkpoint", checkpoint, "--data", data, "--device", "cpu")
    arguments += ("--set", "edit.t2t=random", "--batch-size", 6)
    code, _, err = run(*arguments)
    assert code == 0, err
    assert "the run goes to run; --output" in err and "steps=20: the data is read 20 times" in err
    assert "learning_rate=0.01; --learning-rate takes another one" in err
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(n, n) for n in range(1, 21)]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (facts["max_length"], facts["steps"], facts["packing"]) == (512, 20, False)
    assert (tmp_path / "run" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    code, _, err = run(*arguments)
    assert code == 2 and "pass --resume" in err and err.count("\n") == 1
    code, _, err = run(*arguments, "--resume")
    assert code == 0 and "nothing is left to train" in err


def test_defaults_are_those_of_the_options(run, chosen, data):
    arguments = ("--checkpoint", "tiny", "--data", data, "--output", "x", "--steps", 1)
    assert run("train", *arguments)[0] == 0
    assert run("train", *arguments, "--full")[0] == 0
    assert run("train", *arguments[2:])[0] == 0
    expected = RunOptions("tiny", (str(data),), "x", 1)
    assert chosen[0] == expected
    assert chosen[1].lora_rank == 0 and chosen[2] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing: --checkpoint, --data\n"),
        (("--report-to", "tensorbord"), "report_to='tensorbord' must be one of"),
        (("--config", "nowhere.yaml"), "cannot read nowhere.yaml"),
        (("--set", "steps"), "must be NAME=VALUE"),
        (("--set", "colour=3"), "unknown option colour"),
        (("--t2t", "some"), "t2t must be one of none, random, self"),
        (("--set", "data=[1,"), "--set 'data=[1,': the value is not YAML"),
        (("--set", "edit=self"), "--set 'edit=self' must be NAME=VALUE, or edit.NAME=VALUE"),
        (("--set", "max_length=abc"), "max_length='abc' must be an integer"),
        (("--steps", "0"), "steps=0 must be an integer of at least 1"),
        (("--learning-rate", "-1"), "learning_rate=-1.0 must be positive"),
    ],
)
def test_bad_options_are_one_line(run, data, tmp_path, arguments, message):
    if arguments and "--config" not in arguments:
        base = ("--checkpoint", "tiny", "--data", data, "--output", tmp_path / "o", "--steps", 1)
        arguments = (*base, *arguments)
    code, _, err = run("train", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_bad_line_stops_or_is_skipped(run, checkpoint, data, tmp_path):
    with data.open("a") as file:
        file.write("{oops\n")
    arguments = ("train", "--checkpoint", checkpoint, "--data", data, "--steps", 1, "--t2t", "none")
    arguments += ("--output", tmp_path / "out", "--max-length", 64, "--device", "cpu")
    code, _, err = run(*arguments)
    assert code == 2 and f"{data}:7: is not JSON" in err and "--on-bad-line skip" in err
    assert not (tmp_path / "out").exists()
    code, _, err = run(*arguments, "--on-bad-line", "skip")
    assert code == 0 and f"skipped 1 bad lines of the data\n  {data}:7: is not JSON" in err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_comes_with_advice(run, data, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("fastedit.training.runs.run.run", fail)
    arguments = ("train", "--checkpoint", "tiny", "--data", data, "--output", "x", "--steps", 1)
    code, _, err = run(*arguments, "--full", "--batch-size", 8)
    assert code == 2 and "out of memory: " in err and "Traceback" not in err
    for advice in ("--micro-batch 4", "--max-length (now 2048)", "--lora-rank 16", "FSDP2"):
        assert advice in err
    for line in err.splitlines():  # what --resume refuses asks for a new run
        other = any(word in line for word in ("--max-length", "--lora-rank", "FSDP2"))
        assert line.strip().startswith("in a new run: ") == other
    code, _, err = run(*arguments, "--batch-size", 9)
    assert "--micro-batch 3 " in err  # 4 would not divide the batch
    code, _, err = run(*arguments, "--micro-batch", 1)
    assert "--micro-batch" not in err and "--lora-rank" not in err
    code, _, err = run(*arguments, "--head", "correction")  # which refuses what saves memory else
    assert "--micro-batch 4" in err and "FSDP2" not in err and "gradient_checkpointing" not in err


@pytest.mark.parametrize("saved", [True, False])
def test_interrupt_says_what_there_is_to_go_on_from(run, data, tmp_path, monkeypatch, saved):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    found = [tmp_path / "checkpoint-3"] if saved else []
    monkeypatch.setattr("fastedit.training.runs.checkpoints.checkpoints", lambda output: found)
    monkeypatch.setattr("fastedit.training.runs.run.run", interrupted)
    code, _, err = run(
        "train", "--checkpoint", "tiny", "--data", data, "--output", tmp_path, "--steps", 1
    )
    assert code == 130 and err.startswith("fastedit: interrupted: the same command with --resume ")
    assert ("goes on from" in err and "checkpoint-3" in err) == saved
    assert ("no checkpoint is saved" in err) != saved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nope.jsonl"), "there is no data file nope.jsonl"),
        (("--eval-data", "nope.jsonl"), "there is no data file nope.jsonl"),
        (("--data", "task:chain_sum,exampels=5"), "unknown option 'exampels'; known: examples, "),
        (("--data", "WIDE"), "is UTF-16 text, not JSON Lines"),
        (("--output", "FILE"), "cannot be a folder"),
        (("--output", "FILE/deeper"), "cannot be a folder"),
    ],
)
def test_data_and_output_are_checked_before_the_model_is_loaded(
    run, data, tmp_path, monkeypatch, arguments, message
):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr("fastedit.training.runs.run._load", None)
    wide = tmp_path / "wide.jsonl"
    wide.write_bytes('{"text": "a"}'.encode("utf-16"))
    base = ("--checkpoint", "tiny", "--data", data, "--output", tmp_path / "o", "--steps", 1)
    arguments = [a.replace("FILE", str(data)).replace("WIDE", str(wide)) for a in arguments]
    code, _, err = run("train", *base, *arguments)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_second_run_on_a_folder_is_refused_at_once(run, data, tmp_path, monkeypatch, there):
    monkeypatch.setattr("fastedit.training.runs.run._load", None)
    output = tmp_path / "deep" / "o"
    base = ("--checkpoint", "tiny", "--data", data, "--output", output, "--steps", 1)
    with locked_folder(output):
        if there:
            (output / "run.json").write_text("{}")
        code, _, err = run("train", *base, *(("--resume",) if there else ()))
        assert code == 2 and err.count("\n") == 1
        assert f"{output} is in use by another run (pid {os.getpid()} on " in err
    assert output.exists() == there
