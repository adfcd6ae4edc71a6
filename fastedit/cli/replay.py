"""A trace as a canvas that changes forward by forward."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from fastedit.cli.canvas import DRAFT, EDITED, INSERTED, MASK, REMASKED, Canvas
from fastedit.traces.trace import (
    CHANGES,
    COMMIT,
    DELETE,
    EDIT,
    FILL,
    INSERT,
    Forward,
    Opened,
    Trace,
    TraceEvent,
    move,
)

_AFTER = {FILL: DRAFT, EDIT: EDITED}


class Texts:
    """What stands in for a tokenizer: the texts of the ids that occur in a trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.all_special_ids = trace.header.get("special_tokens", [])
        self.added_tokens_decoder: dict[int, Any] = {}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(self.trace.text, ids))


class Replay:
    """Plays `trace` on `canvas`, which has all that is not committed as its active block."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.canvas = Canvas(
            Texts(trace), -1 if trace.mask_token_id is None else trace.mask_token_id
        )
        self._tokens = len(trace.sequence)
        self._ends = trace.stats.get("finish_reason") in ("eos", "stop")
        self._ids: dict[int, int] = {}
        self._states: dict[int, str] = {}
        self.canvas.moves = any(forward.moved is not None for forward in trace.forwards)

    def frames(self) -> Iterator[bool]:
        """Step by step: as `live.draw` takes them."""
        for turn in self.trace.turns():
            if isinstance(turn, Opened):
                self._open(turn)
                continue
            forward, events = turn
            self._take(forward, [event for event in events if event.kind != COMMIT])
            yield True
            self._commit([event for event in events if event.kind == COMMIT])

    def _open(self, opened: Opened) -> None:
        for place, token in zip(count(opened.position), opened.ids, strict=False):
            self._ids[place] = token
            self._states[place] = MASK if token == self.canvas.mask_token_id else DRAFT

    def _take(self, forward: Forward, events: list[TraceEvent]) -> None:
        canvas = self.canvas
        for event in events:
            if event.kind in CHANGES and event.new is not None:
                self._ids[event.position] = event.new
                self._states[event.position] = _AFTER.get(event.kind, REMASKED)
        kinds = [event.kind for event in events]
        canvas.edits += kinds.count(EDIT)
        canvas.remasks += len(kinds) - sum(map(kinds.count, (FILL, EDIT, INSERT, DELETE)))
        canvas.inserts += kinds.count(INSERT)
        canvas.deletes += kinds.count(DELETE)
        gone = [event.position for event in events if event.kind == DELETE]
        gaps: dict[int, int] = {}
        if forward.moved is not None:
            move(self._ids, forward, forward.put)
            move(self._states, forward, [INSERTED] * len(forward.put))
            for place in gone:
                old = enumerate(forward.moved, forward.position)
                behind = (new for new, was in old if was + forward.position > place)
                at = next(behind, forward.position + len(forward.moved))
                gaps[at] = gaps.get(at, 0) + 1
        canvas.forwards, canvas.block = forward.forward, forward.block
        self._show(gaps)

    def _commit(self, events: list[TraceEvent]) -> None:
        special = self.trace.header.get("special_tokens", [])
        for event in events:
            self.canvas.committed += 1
            if event.new is not None and event.new not in special:
                self.canvas.text += self.trace.text(event.new)
        self._show({})

    def _show(self, gaps: dict[int, int]) -> None:
        canvas = self.canvas
        over = self._ends and canvas.committed >= self._tokens  # what lies behind is no text
        places = sorted(place for place in self._ids if place >= canvas.committed and not over)
        canvas.ids = [self._ids[place] for place in places]
        canvas.states = [self._states[place] for place in places]
        canvas.gaps = {place - canvas.committed: number for place, number in gaps.items()}
        most = self.trace.header.get("options", {}).get("max_new_tokens")
        canvas.within = most - canvas.committed if isinstance(most, int) else None
