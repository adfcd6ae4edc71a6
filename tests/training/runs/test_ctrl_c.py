"""Ctrl-C while `fastedit train` runs: real processes and signals, exactly resumed."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytest.importorskip("reasoning_gym")

from test_resume import PRELOAD, SMALL, assert_equal, at_call

OPTIONS = SMALL | {"steps": 5, "save_every": 4, "edit": {"t2t": "random"}}
HEAD = {"head": "correction", "correction": {"width": 16, "depth": 1}, "edit": {}}
# Where Ctrl-C comes: owner, name and number of the call; the step that is saved then.
MOMENTS = {
    "in a step": ("trainer.EditTrainer", "compute_loss", 2, 2),
    "in a validation": ("trainer.EditTrainer", "evaluate", 1, 3),
    "while a checkpoint is written": ("trainer", "publish", 1, 4),
    "in the last step": ("trainer.EditTrainer", "compute_loss", 5, 5),
}
QUICK = ("in a step",)


def train(output: str, changes: dict, flags: list, moment: tuple | None, times: int) -> None:
    """`fastedit train` in a process of its own; what it says is in `said.txt` beside the output."""
    import torch

    from fastedit.cli import main

    torch.set_num_threads(1)
    options = Path(output).with_name("options.json")
    options.write_text(json.dumps({**OPTIONS, **changes, "output": output}))
    if moment is not None:
        at_call(*moment, lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(times)])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(["train", "--config", str(options), *flags])
    Path(output).with_name("said.txt").write_text(said.getvalue())
    sys.exit(code)


@pytest.fixture(scope="module")
def command():
    """Runs `train` in a process forked from one that has the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def run_command(folder, *flags, changes=None, moment=None, times=1):
        arguments = (str(folder / "run"), changes or {}, list(flags), moment, times)
        process = context.Process(target=train, args=arguments)
        process.start()
        process.join(timeout=120)
        return process.exitcode, (folder / "said.txt").read_text()

    return run_command


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert command(folder)[0] == 0
    return folder / "run"


def saved(output: Path) -> list[str]:
    names = ("adapter", "head", "curves.png", "checkpoint-*")
    return sorted(path.name for name in names for path in output.glob(name))


def optimiser(output: Path, step: int) -> list:
    import torch

    state = torch.load(output / f"checkpoint-{step}" / "optimizer.pt")["state"]
    return [part[name] for part in state.values() for name in ("exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize(
    "moment",
    [pytest.param(m, id=m, marks=() if m in QUICK else pytest.mark.slow) for m in MOMENTS],
)
def test_a_step_that_is_under_way_is_saved(moment, uninterrupted, command, tmp_path):
    *place, step = MOMENTS[moment]
    code, said = command(tmp_path, moment=place)
    output = tmp_path / "run"
    assert code == 130 and "Traceback" not in said
    assert "Ctrl-C: the step under way is finished and saved; a second one ends at once" in said
    last = f"--resume goes on from {output}/checkpoint-{step}, where all steps are saved"
    assert said.splitlines()[-1] == f"fastedit: interrupted: the same command with {last}"
    assert saved(output) == sorted({f"checkpoint-{n}" for n in (4, step) if n <= step})
    code, said = command(tmp_path, "--resume")
    assert code == 0 and (f"going on after step {step} of 5" in said) == (step < 5)
    assert_equal(output, uninterrupted)
    for one, two in zip(optimiser(output, 5), optimiser(uninterrupted, 5), strict=True):
        assert one.equal(two)


def test_a_head_is_saved_too(command, tmp_path):
    code, said = command(tmp_path, changes=HEAD, moment=MOMENTS["in a step"][:3])
    assert code == 130 and "checkpoint-2, where all steps are saved" in said
    assert saved(tmp_path / "run") == ["checkpoint-2"]


def test_a_second_one_ends_at_once_and_a_run_begins_anew(uninterrupted, command, tmp_path):
    """Both come in step 2; nothing is saved, so the folder is free, for other options too."""
    code, said = command(tmp_path, changes={"seed": 1}, moment=MOMENTS["in a step"][:3], times=2)
    output = tmp_path / "run"
    assert code == 130 and "--resume starts anew, since no checkpoint is saved" in said
    assert saved(output) == [] and (output / "metrics.jsonl").read_text().count("\n") == 1
    code, said = command(tmp_path)
    assert code == 0 and said.count("holds no checkpoint of its run: it begins anew\n") == 1
    assert_equal(output, uninterrupted)


def test_before_the_first_step_it_ends_at_once(command, tmp_path):
    code, said = command(tmp_path, moment=("run", "begin", 1))
    assert code == 130 and "finished" not in said and "starts anew" in said.splitlines()[-1]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def mine(*_):
    """A handler of the program's own."""


@pytest.mark.parametrize(
    ("processes", "handler"),
    [(1, signal.default_int_handler), (2, signal.default_int_handler), (1, mine)],
    ids=["alone", "several processes", "another handler"],
)
def test_signals_are_the_programs_own(processes, handler):
    from fastedit.cli.ctrl_c import SaveOnCtrlC

    before = signal.signal(signal.SIGINT, handler)
    try:
        with SaveOnCtrlC(print) as ctrl_c:
            assert signal.getsignal(signal.SIGINT) is handler
            ctrl_c.on_train_begin(SimpleNamespace(world_size=processes), None, None)
            holds = signal.getsignal(signal.SIGINT) is not handler
            assert holds == (processes == 1 and handler is not mine)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
