"""Checkpoints appear whole or not at all; the record has each step once."""

from __future__ import annotations

import json
import os

import pytest

from fastedit.training.runs import checkpoints as module
from fastedit.training.runs.checkpoints import UNFINISHED, StepLog, checkpoints, discard, publish


def folder(path, text="x"):
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text(text)
    return path


def test_only_whole_checkpoints_are_found_in_the_order_of_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-", "checkpoint-3x", "other-4"):
        folder(tmp_path / name)
    folder(tmp_path / UNFINISHED / "checkpoint-11")
    (tmp_path / "checkpoint-12").write_text("no folder")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_publish_flushes_everything_before_it_renames(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        module.os,
        "fsync",
        lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)),
    )
    monkeypatch.setattr(module.os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    source = folder(tmp_path / UNFINISHED / "checkpoint-1")
    publish(source, tmp_path / "checkpoint-1")
    flushed, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    names = [source / "inner" / "file", source / "inner", source]
    assert flushed == [str(name) for name in names] and after == [str(tmp_path)]
    assert (tmp_path / "checkpoint-1" / "inner" / "file").read_text() == "x"


def test_publish_replaces(tmp_path):
    folder(tmp_path / "adapter", "old")
    publish(folder(tmp_path / UNFINISHED / "adapter", "new"), tmp_path / "adapter")
    assert (tmp_path / "adapter" / "inner" / "file").read_text() == "new"
    assert not list((tmp_path / UNFINISHED).iterdir())


def test_a_checkpoint_that_is_being_removed_is_never_found(tmp_path, monkeypatch):
    """Killed before the first file is gone, it already has another name."""

    def killed(path, ignore_errors=False):
        if not ignore_errors:
            raise KeyboardInterrupt

    folder(tmp_path / "checkpoint-1")
    monkeypatch.setattr(module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        discard(tmp_path / "checkpoint-1")
    assert checkpoints(tmp_path) == []
    monkeypatch.undo()
    discard(folder(tmp_path / "checkpoint-1"))  # what the kill left behind is no obstacle
    assert checkpoints(tmp_path) == [] and not list((tmp_path / UNFINISHED).iterdir())


def test_the_log_goes_on_where_the_checkpoint_is(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = StepLog(path)
    for step in range(1, 6):
        log.add({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')  # cut off by a kill
    again = StepLog(path, steps=3)
    again.add({"step": 4, "loss": 0.5})
    again.flush()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert records[2]["loss"] == 1 / 3 and records[3]["loss"] == 0.5
    StepLog(path)
    assert path.read_text() == ""
