"""Runs that are killed with SIGKILL, at chosen moments, and go on to the same end."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytest.importorskip("reasoning_gym")

OPTIONS = {
    "checkpoint": "tiny",
    "data": ["task:chain_sum,examples=9"],
    "steps": 6,
    "batch_size": 2,
    "micro_batch": 1,
    "max_length": 64,
    "packing": False,
    "learning_rate": 5e-3,
    "device": "cpu",
    "save_every": 2,
    "keep": 1,
    "eval_every": 3,
    "eval_examples": 2,
    "edit": {"t2t": "self", "draft_share": 1.0},
}
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

QUICK = ("weights are saved, the optimiser is not", "an old checkpoint is half removed")


def train(output: str, changes: dict, resume: bool, moment: tuple | None) -> None:
    """In a process of its own, which kills itself at the moment."""
    import torch

    from fastedit.training.run import run
    from fastedit.training.settings import RunOptions

    torch.set_num_threads(1)
    if moment is not None:
        _kill_at(*moment)
    run(RunOptions.from_mapping({**OPTIONS, **changes, "output": output}), resume=resume)


def _kill_at(owner: str, name: str, number: int) -> None:
    import importlib

    module, _, cls = owner.partition(".")
    target = importlib.import_module(f"fastedit.training.{module}")
    target = getattr(target, cls) if cls else target
    original, calls = getattr(target, name), []

    def counting(*args, **kwargs):
        calls.append(name)
        if len(calls) == number:
            if name == "discard":  # some of its files are gone already
                args[0].joinpath("optimizer.pt").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(target, name, counting)


@pytest.fixture(scope="module")
def launch():
    """Starts `train` in a process forked from one that has the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastedit.training.run", "peft", "reasoning_gym"])

    def start(output, changes=None, resume=False, moment=None):
        process = context.Process(target=train, args=(str(output), changes or {}, resume, moment))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def finish(launch):
    def run_to_the_end(output, **options):
        process = launch(output, **options)
        process.join(timeout=120)
        return process.exitcode

    return run_to_the_end


def records(output: Path, name: str = "metrics") -> list[dict]:
    """`metrics.jsonl`, or another record, without what a clock decides."""
    lines = [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


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
    assert finish(tmp_path, moment=MOMENTS[moment]) == -signal.SIGKILL
    assert finish(tmp_path, resume=True) == 0
    assert_equal(tmp_path, uninterrupted)


@pytest.mark.parametrize("kills", [(3,), pytest.param((1, 3, 5), marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_all_weights_resume_too(finish, tmp_path):
    full = {"lora_rank": 0, "learning_rate": 1e-3, "steps": 4}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(whole, changes=full) == 0
    moment = ("trainer.EditTrainer", "_take_totals", 4)
    assert finish(killed, changes=full, moment=moment) == -signal.SIGKILL
    assert finish(killed, changes=full, resume=True) == 0
    assert_equal(killed, whole)


def test_only_the_same_run_is_resumed(uninterrupted, tmp_path):
    from fastedit.training.run import run
    from fastedit.training.settings import RunOptions

    def again(resume=True, **changes):
        values = {**OPTIONS, "output": str(uninterrupted), **changes}
        return run(RunOptions.from_mapping(values), resume=resume)

    with pytest.raises(FileExistsError, match="pass --resume"):
        again(resume=False)
    with pytest.raises(ValueError, match="was trained with steps=6, not 7"):
        again(steps=7)
    with pytest.raises(ValueError, match=r"was trained with edit\.t2t=self, not random: "):
        again(edit={**OPTIONS["edit"], "t2t": "random"})
    before = weights(uninterrupted)
    facts = json.loads((uninterrupted / "run.json").read_text())
    assert again(save_every=3, micro_batch=2) == uninterrupted / "adapter"  # nothing left to do
    assert json.loads((uninterrupted / "run.json").read_text()) == facts
    assert weights(uninterrupted) == before and len(records(uninterrupted)) == 6


def test_a_checkpoint_is_what_is_in_it(uninterrupted, tmp_path):
    """A copy elsewhere is the same; the same folder with other weights is not."""
    from fastedit.decoding.loading import TINY
    from fastedit.training.run import run
    from fastedit.training.settings import RunOptions

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
    from fastedit.training.run import run
    from fastedit.training.settings import RunOptions

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

    from fastedit.training.run import run
    from fastedit.training.settings import RunOptions

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="LoRA needs peft: pip install 'fastedit-dlm"):
        run(RunOptions.from_mapping({**OPTIONS, "output": str(tmp_path / "run")}))
    assert not (tmp_path / "run").exists()
