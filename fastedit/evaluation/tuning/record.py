"""What has been measured, in a folder that a later run goes on in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastedit.evaluation.resumed import Layout, Resumed
from fastedit.evaluation.tuning.measure import Tally

FACTS, TALLIES = "tune.json", "measured.jsonl"


class Record(Resumed, dict[tuple[str, str], Tally]):
    """Tallies by (text of the policy, name of the part of the questions).

    Those that are added while it is `open` stand in the folder before `add` returns.
    """

    layout = Layout(
        FACTS, TALLIES, ("report.json", "front.png", "front.svg"), "a tuning run", "tuned"
    )

    def add(self, policy: str, part: str, tally: Tally) -> None:
        self._keep({"policy": policy, "part": part, **asdict(tally)})
        self[policy, part] = tally

    def _take(self, line: dict[str, Any]) -> None:
        policy, part = line.pop("policy"), line.pop("part")
        self[policy, part] = Tally(**line)
