"""Lines of `fastedit generate --input` as requests, every key of them read, kept or refused."""

from __future__ import annotations

import dataclasses
import difflib
from array import array
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastedit.cli.errors import UserError
from fastedit.cli.openai import NEUTRAL, is_batch_line, request_of
from fastedit.files.jsonl import UNREADABLE, BadLines, Lines, as_line, parse, place, shown
from fastedit.files.keys import ANSWERS, empty, is_note, known_remedy, remedy
from fastedit.files.records import CHAT_FIELDS, asked, chat_of, holds_chat

ALL = "all"
# What a result has of its own: a column of that name would be overwritten, or overwrite it.
RESULT_KEYS = ("index", "made_from", "text", "stats", "error", "line")


@dataclass(frozen=True)
class Row:
    """One request of an input file.

    index    from 0, blank lines not counted; line: from 1, as editors count
    prompt   a text or a chat; of a line that is `bad`, the line itself
    options  overrides of `DecodeConfig`, not yet checked
    kept     columns that go along to the result
    bad      why the request cannot be decoded; None: it can
    """

    index: int
    line: int
    id: Any
    prompt: str | list[dict[str, Any]] | dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    bad: str | None = None

    def refused(self, reason: str) -> Row:
        """This request as one that cannot be decoded."""
        return dataclasses.replace(self, options={}, bad=reason)


@dataclass(frozen=True)
class Form:
    """How the lines of a file are read.

    raw     prompts that are texts stay as they are, without the chat template
    prompt  the key that holds the prompt; None: `prompt` or `messages`
    keep    names of columns that go along to the results; "all": each that is not read
    """

    raw: bool = False
    prompt: str | None = None
    keep: Collection[str] = ()

    def __post_init__(self) -> None:
        taken = [name for name in self.keep if name in RESULT_KEYS]
        if taken:
            raise UserError(f"--keep {taken[0]}: every result has a {taken[0]!r} of its own")

    @property
    def prompt_key(self) -> str:
        """The key of a prompt that may be a text."""
        named = self.prompt is not None and self.prompt not in CHAT_FIELDS
        return self.prompt if named and self.prompt else "prompt"


class Rows(Sequence[Row]):
    """All requests of a file, or of standard input ("-"); each is read anew where it is asked for.

    What is kept of a line is its place, so a file may have a great many. What is wrong with one
    goes to `bad`, and into its row. Raises `UserError` for a file that cannot be read, is no JSON
    Lines, or holds no requests.

    refused  why requests cannot be decoded, by their index
    """

    def __init__(self, path: Path, form: Form, bad: BadLines) -> None:
        self.path, self.form, self.bad = path, form, bad
        self.refused: dict[int, str] = {}
        self._numbers, self._places = array("q"), array("q")
        try:
            self._lines = Lines(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(str(error)) from error
        try:
            self._look_through()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lines.close()

    def refuse(self, row: Row, reason: Exception | str) -> None:
        self.refused[row.index] = self.bad.add(place(self.path, row.line), reason)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        line = self._lines.at(self._places[index]).removesuffix(b"\n")
        row, _ = self._read(index % len(self), self._numbers[index], line)
        return row

    def _look_through(self) -> None:
        seen: set[str] = set()
        for number, where, line in self._lines:
            row, keys = self._read(len(self), number, line)
            self._numbers.append(number)
            self._places.append(where)
            if row.bad:
                self.refuse(row, row.bad)
            seen |= keys
        if not self:
            raise UserError(f"{shown(self.path)} holds no requests")
        missing = [name for name in self.form.keep if name != ALL and name not in seen]
        if missing and not self.bad.found:
            raise UserError(f"--keep {missing[0]}: no line of {shown(self.path)} has it")

    def _read(self, index: int, number: int, line: bytes) -> tuple[Row, Set[str]]:
        """The request in a line, and the keys that it has."""
        value: dict[str, Any] = {}
        try:
            value = parse(line)
            row = _row(index, number, value, self.form)
        except UNREADABLE as error:
            text = line.decode(errors="replace")
            row = Row(index, number, _id(value), text, bad=as_line(error))
        reason = self.refused.get(index)
        return row if reason is None else row.refused(reason), value.keys()


def _row(index: int, line: int, value: dict[str, Any], form: Form) -> Row:
    request, raw = value, form.raw
    if is_batch_line(value):
        request, raw = request_of(value, form.keep), False
    key = form.prompt_key
    # A key of the prompt that is null is one that is not there, as exports of tables have it.
    request = {n: v for n, v in request.items() if v is not None or n not in (key, *CHAT_FIELDS)}
    if form.prompt is not None and not is_batch_line(value):
        _check_prompt_key(request, form.prompt)
    if (key in request) == holds_chat(request):
        raise ValueError(f"needs one of `{key}` and `messages`; --prompt-field names another key")
    prompt = asked(request, key, raw) if key in request else chat_of(request)
    rest = {n: v for n, v in request.items() if n not in (key, *CHAT_FIELDS)}
    options = {n: v for n, v in rest.items() if not _passed_over(n, v, form.keep)}
    if isinstance(options.get("seed"), list):
        raise ValueError("`seed` must be one integer here")
    return Row(index, line, _id(value), prompt, options, _kept(value, rest, options, form.keep))


def _id(value: dict[str, Any]) -> Any:
    names = ("custom_id", "id") if is_batch_line(value) else ("id", "custom_id")
    return next((value[name] for name in names if name in value), None)


def _check_prompt_key(value: dict[str, Any], key: str) -> None:
    if key not in value:
        raise ValueError(f"has no `{key}`, the --prompt-field")
    names = ("prompt", "messages", "conversations")
    others = [n for n in names if value.get(n) is not None and n != key]
    if others:
        raise ValueError(f"has `{others[0]}` beside `{key}`, the --prompt-field: remove one")


def _passed_over(name: str, value: Any, keep: Collection[str]) -> bool:
    """Whether a key may be left unread. Raises ValueError for one that must not."""
    if name in _option_names():
        return False
    if name in keep or is_note(name) or name in ANSWERS or empty(value):
        return True
    if name in NEUTRAL:
        if any(value == other and type(value) is type(other) for other in NEUTRAL[name]):
            return True
        raise ValueError(f"`{name}` = {str(value)[:60]} cannot be honoured: remove it")
    if known_remedy(name):
        raise ValueError(f"`{name}` would be left unread: {remedy(name)}{_way_out(name)}")
    if ALL in keep:
        return True
    close = " or ".join(difflib.get_close_matches(name, sorted(_option_names())))
    meant = f"; did you mean {close}?" if close else ""
    raise ValueError(f"unknown decoding option {name!r}{meant}{_way_out(name)}")


def _way_out(name: str) -> str:
    return f"; as a column of your own it goes along with --keep {name}"


def _kept(
    value: dict[str, Any], rest: Iterable[str], options: Iterable[str], keep: Collection[str]
) -> dict[str, Any]:
    names = set(keep)
    if ALL in keep:
        names |= set(value if is_batch_line(value) else rest) - set(options)
        names -= {"body", "custom_id", "method", "url"} if is_batch_line(value) else set()
    names.discard("id")
    taken = sorted(names & set(RESULT_KEYS) & value.keys())
    if taken:
        raise ValueError(
            f"--keep {ALL}: every result has a {taken[0]!r} of its own: rename this one"
        )
    return {name: v for name, v in value.items() if name in names}


def _option_names() -> frozenset[str]:
    from fastedit.config import option_names

    return option_names()
