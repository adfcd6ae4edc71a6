"""What has been measured, in a folder that a later run goes on in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastedit.evaluation.tuning.measure import Tally
from fastedit.files.jsonl import UNREADABLE, parse, write_line

FACTS, TALLIES = "tune.json", "measured.jsonl"
OUTPUTS = ("report.json", "front.png", "front.svg")
_KEY = ("policy", "part")


class Record(dict[tuple[str, str], Tally]):
    """Tallies by (text of the policy, name of the part of the questions).

    Those that are added while it is `open` stand in the folder before `add` returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file: Any = None

    def add(self, policy: str, part: str, tally: Tally) -> None:
        if self._file is not None:
            write_line(self._file, {"policy": policy, "part": part, **asdict(tally)})
        self[policy, part] = tally

    @contextlib.contextmanager
    def open(self, folder: Path | None, facts: Mapping[str, Any]) -> Iterator[Record]:
        """Take what a run with the same facts has left in `folder`, and keep there what is added.

        facts: what the numbers depend on, by the names that a message calls it. A last line that
        was cut off is removed. Raises ValueError where the folder is of other facts,
        FileExistsError where it holds files of these names that no run has made, and OSError.
        """
        if folder is None:
            yield self
            return
        _check_facts(folder, json.loads(json.dumps(facts)))
        path = folder / TALLIES
        self._read(path)
        with path.open("a", encoding="utf-8", newline="\n") as self._file:
            yield self

    def _read(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        kept = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(kept.splitlines(), start=1):
            try:
                values = parse(line)
                policy, part = (values.pop(name) for name in _KEY)
                self[policy, part] = Tally(**values)
            except (*UNREADABLE, KeyError):
                raise ValueError(
                    f"{path}:{number}: is no line of a tuning run; remove it, or give another "
                    "--output"
                ) from None
        if len(kept) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(kept))


def _check_facts(folder: Path, facts: dict[str, Any]) -> None:
    path = folder / FACTS
    if not path.exists():
        taken = [name for name in (TALLIES, *OUTPUTS) if (folder / name).exists()]
        if taken:
            raise FileExistsError(
                f"{folder} holds {', '.join(taken)}, but no {FACTS} of a tuning run: move them "
                "away, or give another --output"
            )
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = parse(path.read_bytes())
    except UNREADABLE as error:
        raise ValueError(f"{path} {error}: give another --output") from None
    changed = [name for name in facts if before.get(name) != facts[name]]
    if changed or before.keys() != facts.keys():
        raise ValueError(
            f"{folder} was tuned with another {' and another '.join(changed) or 'fastedit'}: give "
            "the same again, or another --output"
        )
