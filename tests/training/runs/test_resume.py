"""Runs that are killed with SIGKILL, at chosen moments, and go on to the same end."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytest.importorskip("reasoning_gym")

SMALL = {
    "checkpoint": "tiny",
    "data": ["task:chain_sum,examples=9"],
    "batch_size": 2,
    "max_length": 64,
    "packing": False,
    "learning_rate": 5e-3,
    "device": "cpu",
    "eval_every": 3,
    "eval_examples": 2,
}
OPTIONS = SMALL | {
    "steps": 6,
    "micro_batch": 1,
    "save_every": 2,
    "keep": 1,
    "edit": {"t2t": "self", "labels": "lcs", "turns": 2, "noise": "fixed(1)"},
}
# What every run imports; there is one server for all tests, which keeps what it was first given.
PRELOAD = ["fastedit.training.runs.run", "fastedit.cli", "peft", "reasoning_gym"]
# Where a process kills itself: owner, name, and the number of the call before which it does.
MOMENTS = {
    "before a step is logged": ("trainer.EditTrainer", "_take_totals", 5),
    "after a step was logged": ("trainer.EditTrainer", "_save_checkpoint", 2),
    "weights are saved, the optimiser is not": (
        "trainer.EditTrainer",
        "_save_optimizer_and_scheduler",
        2,
    ),
    "a checkpoint is written but not renamed": ("trainer", "publish", 2),
    "an old checkpoint is half removed": ("trainer", "discard", 1),
    "the first checkpoint is being written": ("trainer", "publish", 1),
    "all steps are done, the result is not": ("trainer.EditTrainer", "export", 1),
}

QUICK = ("weights are saved, the optimiser is not",)


# From which call on, as above, a file may have as many bytes and no more.
SHORTAGES = {
    "run.json": ("run", "begin", 1, 300),
    "metrics.jsonl": ("trainer.EditTrainer", "_take_totals", 4, 1000),
    "validation.jsonl": ("trainer.EditTrainer", "evaluate", 2, 300),
    "the adapter of a checkpoint": ("trainer.EditTrainer", "_save_checkpoint", 2, 200_000),
    "its optimiser": ("trainer.EditTrainer", "_save_checkpoint", 2, 700_000),
    "the first checkpoint": ("trainer.EditTrainer", "_save_checkpoint", 1, 200_000),
    "the result": ("trainer.EditTrainer", "export", 1, 200_000),
    "the tokenizer of the result": ("trainer.EditTrainer", "export", 1, 20_000),
}
QUICK_SHORTAGES = ("its optimiser",)


def train_by_command(output: str, resume: bool, shortage: tuple | None) -> None:
    """`fastedit train` in a process of its own; what it says is in `said.txt` beside the output."""
    import torch

    from fastedit.cli import main

    torch.set_num_threads(1)
    options = Path(output).with_name("options.json")
    options.write_text(json.dumps({**OPTIONS, "output": output}))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        if shortage is not None:
            _limit_at(*shortage)
        code = main(["train", "--config", str(options), *(["--resume"] if resume else [])])
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    Path(output).with_name("said.txt").write_text(said.getvalue())
    sys.exit(code)


def train(output: str, changes: dict, resume: bool, moment: tuple | None) -> None:
    """In a process of its own, which kills itself at the moment."""
    import torch

    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    torch.set_num_threads(1)
    if moment is not None:
        _kill_at(*moment)
    run(RunOptions.from_mapping({**OPTIONS, **changes, "output": output}), resume=resume)


def _kill_at(owner: str, name: str, number: int) -> None:
    def kill(*args):
        if name == "discard":  # some of its files are gone already
            args[0].joinpath("optimizer.pt").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    at_call(owner, name, number, kill)


def _limit_at(owner: str, name: str, number: int, size: int) -> None:
    at_call(owner, name, number, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1)))


def at_call(owner: str, name: str, number: int, act: Callable[..., None]) -> None:
    import importlib

    module, _, cls = owner.partition(".")
    target = importlib.import_module(f"fastedit.training.runs.{module}")
    target = getattr(target, cls) if cls else target
    original, calls = getattr(target, name), []

    def counting(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            act(*args)
        return original(*args, **kwargs)

    setattr(target, name, counting)


@pytest.fixture(scope="module")
def launch():
    """Starts `train` in a process forked from one that has the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def start(output, changes=None, resume=False, moment=None):
        process = context.Process(target=train, args=(str(output), changes or {}, resume, moment))
        process.start()
        return process

    start.context = context
    return start


@pytest.fixture(scope="module")
def finish(launch):
    def run_to_the_end(output, **options):
        process = launch(output, **options)
        process.join(timeout=120)
        return process.exitcode

    return run_to_the_end


@pytest.fixture
def command(launch, tmp_path):
    """Runs `fastedit train` on `tmp_path/run`: (exit code, what it said)."""

    def run_command(resume=False, shortage=None):
        process = launch.context.Process(
            target=train_by_command, args=(str(tmp_path / "run"), resume, shortage)
        )
        process.start()
        process.join(timeout=120)
        return process.exitcode, (tmp_path / "said.txt").read_text()

    return run_command


def records(output: Path, name: str = "metrics") -> list[dict]:
    """`metrics.jsonl`, or another record, without what a clock decides."""
    lines = [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
    timed = {"tokens_per_second", "labels_share"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def assert_equal(output: Path, other: Path) -> None:
    for name in ("metrics", "validation", "samples"):
        assert records(output, name) == records(other, name)
    assert weights(output) == weights(other)


def weights(output: Path) -> bytes:
    [file] = [*output.glob("adapter/*.safetensors"), *output.glob("checkpoint/*.safetensors")]
    return file.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(finish, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    assert finish(output) == 0
    return output


def test_a_run_records_each_step_once(uninterrupted):
    steps = records(uninterrupted)
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert len({line["loss"] for line in steps}) == 6
    assert any(line["delete_labels"] for line in steps)
    for name in ("validation", "samples"):
        assert [line["step"] for line in records(uninterrupted, name)] == [3, 6]
    assert {path.name for path in uninterrupted.iterdir()} == {
        "adapter",
        "checkpoint-6",
        "metrics.jsonl",
        "run.json",
        "samples.jsonl",
        "validation.jsonl",
    }


@pytest.mark.parametrize(
    "moment",
    [pytest.param(m, id=m, marks=() if m in QUICK else pytest.mark.slow) for m in MOMENTS],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(moment, uninterrupted, finish, tmp_path):
    """A line that was cut in the middle is written anew."""
    assert finish(tmp_path, moment=MOMENTS[moment]) == -signal.SIGKILL
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": ')
    assert finish(tmp_path, resume=True) == 0
    assert_equal(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(3,), (1, 3, 5)])
def test_killed_from_outside(kills, uninterrupted, launch, finish, tmp_path):
    """Whenever it comes; a line cut in the middle is written anew."""
    log = tmp_path / "metrics.jsonl"
    for lines in kills:
        process = launch(tmp_path, resume=True)
        deadline = time.monotonic() + 60
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline and process.is_alive()
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with log.open("a") as file:
            file.write('{"step": ')
    assert finish(tmp_path, resume=True) == 0
    assert_equal(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    "shortage",
    [
        pytest.param(s, id=s, marks=() if s in QUICK_SHORTAGES else pytest.mark.slow)
        for s in SHORTAGES
    ],
)
def test_a_full_disk_is_one_line_and_loses_nothing(shortage, uninterrupted, command, tmp_path):
    """Files that may not grow stand for a disk that is full; all of them are kept as they are."""
    output = tmp_path / "run"
    code, said = command(shortage=SHORTAGES[shortage])
    last = said.splitlines()[-1]
    assert code == 2 and "Traceback" not in said
    assert f"fastedit: cannot write {output}: " in last and "same command with --resume " in last
    saved = [path.name for path in output.glob("checkpoint-*")]
    assert f"goes on from {output / saved[-1]}" in last if saved else "starts anew" in last
    assert not (output / ".unfinished").exists() and not (output / ".lock").exists()
    code, said = command(resume=True)
    step = saved[0][-1] if saved else None
    goes_on = "all 6 steps are done" if step == "6" else f"going on after step {step} "
    assert code == 0 and (goes_on in said) == bool(saved)
    assert_equal(output, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"lora_rank": 0, "learning_rate": 1e-3}, {"edit": {"t2t": "self", "draft_share": 1.0}}],
    ids=["all weights", "plain labels"],
)
def test_other_runs_resume_too(changes, finish, tmp_path):
    changes = changes | {"steps": 4}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(whole, changes=changes) == 0
    moment = ("trainer.EditTrainer", "_take_totals", 4)
    assert finish(killed, changes=changes, moment=moment) == -signal.SIGKILL
    assert finish(killed, changes=changes, resume=True) == 0
    assert_equal(killed, whole)


def test_only_the_same_run_is_resumed(uninterrupted, tmp_path):
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    def again(resume=True, **changes):
        values = {**OPTIONS, "output": str(uninterrupted), **changes}
        return run(RunOptions.from_mapping(values), resume=resume)

    with pytest.raises(FileExistsError, match="pass --resume"):
        again(resume=False)
    with pytest.raises(ValueError, match="was trained with steps=6, not 7"):
        again(steps=7)
    with pytest.raises(ValueError, match=r"was trained with edit\.labels=lcs, not plain; "):
        again(edit={"t2t": "self", "noise": "fixed(1)"})
    before = weights(uninterrupted)
    facts = json.loads((uninterrupted / "run.json").read_text())
    assert again(save_every=3, micro_batch=2) == uninterrupted / "adapter"  # nothing left to do
    assert json.loads((uninterrupted / "run.json").read_text()) == facts
    assert weights(uninterrupted) == before and len(records(uninterrupted)) == 6


def test_a_checkpoint_is_what_is_in_it(uninterrupted, tmp_path):
    """A copy elsewhere is the same; the same folder with other weights is not."""
    from fastedit.models.load import TINY
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    copy = Path(shutil.copytree(TINY, tmp_path / "copy"))
    values = {**OPTIONS, "output": str(uninterrupted), "checkpoint": str(copy)}
    before = weights(uninterrupted)
    assert run(RunOptions.from_mapping(values), resume=True) == uninterrupted / "adapter"
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"was trained from tiny, and now .*copy has other weights"
    ):
        run(RunOptions.from_mapping(values), resume=True)
    assert weights(uninterrupted) == before


def test_what_may_change_takes_effect_on_the_way(uninterrupted, finish, tmp_path):
    """Killed in step 5, with a checkpoint of step 4: from there on, saves are the new ones."""
    assert finish(tmp_path, moment=MOMENTS["before a step is logged"]) == -signal.SIGKILL
    changes = {"save_every": 5, "eval_every": 5, "keep": 9, "micro_batch": 2}
    assert finish(tmp_path, changes=changes, resume=True) == 0
    found = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert found == {"checkpoint-4", "checkpoint-5", "checkpoint-6"}
    for name in ("validation", "samples"):
        assert [line["step"] for line in records(tmp_path, name)][:2] == [3, 5]
    for one, two in zip(records(tmp_path), records(uninterrupted), strict=True):
        assert one["step"] == two["step"] and one["labels"] == two["labels"]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_a_start_that_was_refused_is_no_obstacle(tmp_path):
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    def start(**changes):
        values = {**OPTIONS, "output": str(tmp_path), "steps": 1, **changes}
        return run(RunOptions.from_mapping(values))

    refused = {"lora_rank": 0, "edit": {"t2t": "self", "draft_adapter": "off"}}
    with pytest.raises(ValueError, match="needs a model wrapped by peft"):
        start(**refused)
    assert not list(tmp_path.iterdir())
    assert start(edit={"t2t": "none"}) == tmp_path / "adapter"


def test_without_peft_there_is_a_hint(tmp_path, monkeypatch):
    import sys

    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA needs peft: pip install .*train"):
        run(RunOptions.from_mapping({**OPTIONS, "output": str(tmp_path / "run")}))
    assert not (tmp_path / "run").exists()
