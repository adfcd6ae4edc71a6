"""Traces as JSON Lines: a header line for each, then a line per step; see docs/traces.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastedit.files.jsonl import UNREADABLE, DataError, Lines, as_line, parse, place, shown
from fastedit.traces.trace import KINDS, Forward, Opened, Step, Trace, TraceEvent

SCHEMA, VERSION = "fastedit.trace", 1
OPEN, FORWARD = "open", "forward"


def save(traces: Iterable[Trace], path: str | os.PathLike[str]) -> None:
    """Write traces into one file, UTF-8, one after the other. Raises OSError."""
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for trace in traces:
            for line in lines(trace):
                file.write(line + "\n")


def lines(trace: Trace) -> Iterator[str]:
    """The lines of one trace."""
    about = {"schema": SCHEMA, "version": VERSION, **trace.header}
    about |= {"tokens": trace.tokens, "stats": trace.stats, "lines": len(trace.steps)}
    for value in (about, *map(as_dict, trace.steps)):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)


def load(path: str | os.PathLike[str]) -> list[Trace]:
    """The traces of a file, which may be gzipped.

    Raises OSError, and DataError, a ValueError: for a file that is none of traces, one of a newer
    version, and a line that is broken, with its number; and for a trace that lacks lines.
    """
    traces: list[Trace] = []
    due: list[Any] = []  # how many lines each has
    with contextlib.closing(Lines(path)) as found:
        for number, _, line in found:
            try:
                value = parse(line)
                if "schema" in value or not traces:
                    traces.append(_trace(value))
                    due.append(value.get("lines"))
                else:
                    traces[-1].steps.append(_step(value))
            except UNREADABLE as error:
                raise DataError(f"{place(path, number)}: {as_line(error)}") from None
    if not traces:
        raise DataError(f"{shown(path)} holds no trace: `fastedit generate --trace` writes some")
    for trace, lines_due in zip(traces, due, strict=True):
        if lines_due not in (None, len(trace.steps)):
            raise DataError(
                f"{shown(path)}: the trace of request {trace.header['request']} has "
                f"{len(trace.steps)} of its {lines_due} lines: the file was cut or changed"
            )
    return traces


def as_dict(step: Step) -> dict[str, Any]:
    """Without what is not known, but for ids, and for numbers of a list."""
    values = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    if isinstance(step, TraceEvent):
        return {n: v for n, v in values.items() if v is not None or n in ("old", "new")}
    kind = OPEN if isinstance(step, Opened) else FORWARD
    moves = values.get("moved") is not None
    kept = {n: v for n, v in values.items() if v is not None and (n != "put" or moves)}
    return {"kind": kind, **kept}


def _trace(value: dict[str, Any]) -> Trace:
    if value.get("schema") != SCHEMA:
        raise ValueError(
            f"is no header of a trace: it must have schema {SCHEMA!r}, "
            f"got {value.get('schema')!r:.40}; `fastedit generate --trace` writes such files"
        )
    version = value.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"version must be an integer from 1 on; got {version!r:.40}")
    if version > VERSION:
        raise ValueError(
            f"is a trace of version {version}, and this fastedit reads up to {VERSION}: update it"
        )
    tokens, stats = value.get("tokens"), value.get("stats")
    if not isinstance(tokens, dict) or not all(
        name.isdecimal() and isinstance(text, str) for name, text in tokens.items()
    ):
        raise ValueError("tokens must map ids to texts")
    if not isinstance(stats, dict):
        raise ValueError(f"stats must be an object; got {stats!r:.40}")
    for name, kind in (("request", int), ("mask_token_id", int), ("policy", str)):
        if not isinstance(value.get(name), kind) or isinstance(value.get(name), bool):
            raise ValueError(f"{name} must be {_NAMES[kind]}; got {value.get(name)!r:.40}")
    beside = ("schema", "version", "tokens", "stats", "lines")
    header = {name: content for name, content in value.items() if name not in beside}
    return Trace(header, [], {int(name): text for name, text in tokens.items()}, stats)


def _step(value: dict[str, Any]) -> Step:
    kind = value.get("kind")
    if kind == OPEN:
        return Opened(**_fields(value, _OPENED, Opened))
    if kind == FORWARD:
        step = Forward(**_fields(value, _FORWARD, Forward))
        if step.entropy is not None and len(step.entropy) != len(step.confidence):
            raise ValueError("entropy must have as many numbers as confidence")
        if sum(old < 0 for old in step.moved or ()) != len(step.put):
            raise ValueError("put must have an id for every -1 in moved")
        return step
    if kind not in KINDS:
        known = ", ".join((OPEN, FORWARD, *KINDS))
        raise ValueError(f"kind must be one of {known}; got {kind!r:.40}")
    return TraceEvent(kind, **_fields(value, _EVENT, TraceEvent))


def _fields(value: dict[str, Any], checks: Mapping[str, _Check], kind: type) -> dict[str, Any]:
    """Those of `kind` in `value`, checked; keys beyond them are left alone."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.name not in checks:
            continue
        if field.name in value:
            right, expected = checks[field.name]
            if not right(value[field.name]):
                raise ValueError(f"{field.name} must be {expected}; got {value[field.name]!r:.40}")
            found[field.name] = value[field.name]
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"a line of kind {value['kind']!r} must have {field.name}")
    return found


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _probability(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _all(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


_Check = tuple[Callable[[Any], bool], str]
_NAMES = {int: "an integer", str: "a text"}
_INTEGER: _Check = _integer, "an integer"
_ID: _Check = lambda value: value is None or _integer(value), "an integer or null"
_NUMBER: _Check = _probability, "a number or null"
_INTEGERS: _Check = _all(_integer), "a list of integers"
_NUMBERS: _Check = _all(_probability), "a list of numbers and nulls"
_WHERE = dict.fromkeys(("forward", "block", "position"), _INTEGER)
_OPENED = _WHERE | {"ids": _INTEGERS}
_FORWARD = _WHERE | {
    "confidence": _NUMBERS,
    "entropy": _NUMBERS,
    "moved": _INTEGERS,
    "put": _INTEGERS,
}
_EVENT = (
    _WHERE
    | dict.fromkeys(("old", "new"), _ID)
    | dict.fromkeys(("p_old", "p_new", "confidence", "entropy", "score"), _NUMBER)
    | {"policy": (lambda value: isinstance(value, str), "a text")}
)
