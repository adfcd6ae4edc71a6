"""Why one token of a sequence is what it is: its events, back through whatever has moved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastedit.traces.reasons import digits, why
from fastedit.traces.trace import (
    CHANGES,
    COMMIT,
    DELETE,
    EDIT,
    FILL,
    INSERT,
    REMASK,
    Forward,
    Opened,
    Trace,
    TraceEvent,
)


@dataclass(frozen=True)
class Change:
    """An event, and why it came: `why` is a clause in words."""

    event: TraceEvent
    why: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self.event) | {"why": self.why, "text": self.text}


@dataclass(frozen=True)
class History:
    """What happened to the token at `position`; `str` of it says it in words.

    changes  in order; iterating yields their events
    """

    position: int
    token: int | None
    policy: str
    changes: list[Change]
    title: str

    def __iter__(self) -> Iterator[TraceEvent]:
        return (change.event for change in self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        changes = [change.as_dict() for change in self.changes]
        return {"position": self.position, "token": self.token, "changes": changes}

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {change.text}" for change in self.changes)])

    __repr__ = __str__


def history(trace: Trace, position: int) -> History:
    """As `Trace.history` says."""
    final = trace.final()
    if position not in final:
        span = f"{min(final)} to {max(final)}" if final else "none"
        raise IndexError(f"position {position} was not decoded: the trace has {span}")
    events = _events(trace, position)
    parameters = trace.header.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    changes = []
    for event in events:
        reason = why(event, parameters)
        changes.append(Change(event, reason, f"{_told(trace, event)}: {reason}"))
    token = final[position]
    held = f"Position {position} holds {_quoted(trace, token)}, under policy {trace.policy}."
    if all(event.kind == COMMIT for event in events):
        held = f"{held[:-1]}: it was there from the beginning."
    return History(position, token, trace.policy, changes, held)


def _events(trace: Trace, position: int) -> list[TraceEvent]:
    """Of the token at `position` at the end, in order."""
    found: list[TraceEvent] = []
    for turn in reversed(list(trace.turns())):
        if isinstance(turn, Opened):
            continue
        forward, events = turn
        here = [e for e in events if e.kind == COMMIT and e.position == position]
        came = position if forward.moved is None else _came_from(forward, position)
        if came is None:  # it was put in by this forward
            before = _behind(forward, position)
            here = [e for e in events if e.kind == INSERT and e.position == before] + here
            found = here + found
            break
        position = came
        found = [e for e in events if e.kind in CHANGES and e.position == came] + here + found
    return found


def _came_from(forward: Forward, position: int) -> int | None:
    """Where what is at `position` stood before; None for what was put in."""
    assert forward.moved is not None
    place = position - forward.position
    if not 0 <= place < len(forward.moved):
        return position
    old = forward.moved[place]
    return None if old < 0 else forward.position + old


def _behind(forward: Forward, position: int) -> int | None:
    """Where the next token behind `position` stood that was there before."""
    assert forward.moved is not None
    rest = forward.moved[position - forward.position :]
    return next((forward.position + old for old in rest if old >= 0), None)


def _told(trace: Trace, event: TraceEvent) -> str:
    """What happened, without why."""
    old, new = _quoted(trace, event.old), _quoted(trace, event.new)
    what = {
        FILL: f"filled with {new}{_p(event.p_new)}",
        EDIT: f"changed from {old}{_p(event.p_old)} to {new}{_p(event.p_new)}",
        REMASK: f"taken back: {old}{_p(event.p_old)} became a mask",
        INSERT: f"put in as {new}{_p(event.p_new)}",
        DELETE: f"{old}{_p(event.p_old)} taken out",
        COMMIT: f"committed as {new}",
    }[event.kind]
    return f"forward {event.forward}, block {event.block}: {what}"


def _quoted(trace: Trace, token: int | None) -> str:
    if token is None or token == trace.mask_token_id:
        return trace.text(token) or "nothing"
    return json.dumps(trace.text(token), ensure_ascii=False)


def _p(value: float | None) -> str:
    return "" if value is None else f" (p {digits(value)})"
