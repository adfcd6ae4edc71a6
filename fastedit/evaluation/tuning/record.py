"""What has been measured, in a folder that a later run goes on in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastedit.evaluation.resumed import Layout, opened
from fastedit.evaluation.tuning.measure import Tally

FACTS, TALLIES = "tune.json", "measured.jsonl"
LAYOUT = Layout(FACTS, TALLIES, ("report.json", "front.png", "front.svg"), "a tuning run", "tuned")


class Record(dict[tuple[str, str], Tally]):
    """Tallies by (text of the policy, name of the part of the questions).

    Those that are added while it is `open` stand in the folder before `add` returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self._keep: Callable[[Mapping[str, Any]], None] = lambda line: None

    def add(self, policy: str, part: str, tally: Tally) -> None:
        self._keep({"policy": policy, "part": part, **asdict(tally)})
        self[policy, part] = tally

    @contextlib.contextmanager
    def open(self, folder: Path | None, facts: Mapping[str, Any]) -> Iterator[Record]:
        """Take what a run with the same facts has left in `folder`, and keep there what is added.

        Facts and errors are those of `resumed.opened`.
        """
        if folder is None:
            yield self
            return
        with opened(folder, LAYOUT, facts, self._take) as self._keep:
            yield self

    def _take(self, line: dict[str, Any]) -> None:
        policy, part = line.pop("policy"), line.pop("part")
        self[policy, part] = Tally(**line)
