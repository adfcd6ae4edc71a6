"""Folders that appear whole or not at all, and a record of steps that a killed run can go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastedit.files.jsonl import write_line

UNFINISHED = ".unfinished"  # what is being written or removed; never read
PREFIX = "checkpoint-"


def checkpoints(output: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = {
        int(path.name.removeprefix(PREFIX)): path
        for path in output.glob(f"{PREFIX}*")
        if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()
    }
    return [found[step] for step in sorted(found)]


def publish(folder: Path, target: Path) -> None:
    """Flush all of `folder` to disk, then rename it to `target`, in place of what is there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _flush(path)
    _flush(folder)
    if target.exists():
        discard(target)
    os.replace(folder, target)
    _flush(target.parent)


def discard(folder: Path) -> None:
    """Remove a folder; killed halfway, it does not stay behind under its name."""
    bin = folder.parent / UNFINISHED / f"old-{folder.name}"
    bin.parent.mkdir(exist_ok=True)
    shutil.rmtree(bin, ignore_errors=True)
    os.replace(folder, bin)
    shutil.rmtree(bin)


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class StepLog:
    """`metrics.jsonl`: one object per step, each step once, over however many resumptions."""

    def __init__(self, path: Path, steps: int = 0) -> None:
        """Keep what is there of the first `steps` steps; they are run again from there."""
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if 0 < _step(line) <= steps]
        write_text(path, "".join(f"{line}\n" for line in kept))
        # What cannot be encoded stands as its escape, which JSON reads as the same.
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")

    def add(self, record: Mapping[str, Any]) -> None:
        write_line(self._file, record)

    def flush(self) -> None:
        """To the disk, before a checkpoint says that these steps are done."""
        os.fsync(self._file.fileno())


def last_step(path: Path) -> int:
    """The last step in the record `path`; 0 where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return max(map(_step, lines), default=0)


def _step(line: str) -> int:
    """The step of a line; 0 for one that was cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return 0


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
