"""What has been measured, a line each, in a folder that a later run goes on in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from fastedit.files.jsonl import UNREADABLE, parse, write_line


class Layout(NamedTuple):
    """Names of the files in such a folder, and words for messages.

    facts    what the lines depend on
    outputs  what else a run writes
    """

    facts: str
    lines: str
    outputs: tuple[str, ...]
    run: str  # "a tuning run"
    was: str  # "tuned"


class Resumed:
    """Something measured, of which each part is a line; subclasses say how one is read."""

    layout: ClassVar[Layout]
    _keep: Callable[[Mapping[str, Any]], None] = staticmethod(lambda line: None)  # while not open

    def _take(self, line: dict[str, Any]) -> None:
        """Read a line of an earlier run; KeyError and what `UNREADABLE` names: it is none."""
        raise NotImplementedError

    @contextlib.contextmanager
    def open(self, folder: Path | None, facts: Mapping[str, Any]) -> Iterator[Self]:
        """Take what a run with the same facts has left in `folder`, and keep there what is added;
        None: keep nothing.

        facts: what the numbers depend on, by the names that a message calls it. A line that was
        added stands in the folder; a last one that was cut off is removed. Raises ValueError where
        the folder is of other facts or holds a line that cannot be used, FileExistsError where it
        holds files of these names that no run has made, and OSError.
        """
        if folder is None:
            yield self
            return
        _check_facts(folder, self.layout, json.loads(json.dumps(facts)))
        path = folder / self.layout.lines
        content = path.read_bytes() if path.exists() else b""
        kept = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(kept.splitlines(), start=1):
            try:
                self._take(parse(line))
            except (*UNREADABLE, KeyError):
                raise ValueError(
                    f"{path}:{number}: is no line of {self.layout.run}; remove it, or give another "
                    "--output"
                ) from None
        if len(kept) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(kept))
        with path.open("a", encoding="utf-8", newline="\n", errors="backslashreplace") as file:
            self._keep = lambda line: write_line(file, line)
            yield self


def _check_facts(folder: Path, layout: Layout, facts: dict[str, Any]) -> None:
    path = folder / layout.facts
    if not path.exists():
        taken = [n for n in (layout.lines, *layout.outputs) if (folder / n).exists()]
        if taken:
            raise FileExistsError(
                f"{folder} holds {', '.join(taken)}, but no {layout.facts} of {layout.run}: move "
                "them away, or give another --output"
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
            f"{folder} was {layout.was} with another "
            f"{' and another '.join(changed) or 'fastedit'}: give the same again, or another "
            "--output"
        )
