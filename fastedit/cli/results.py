"""Files of results: JSON Lines that a killed run leaves ready to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from fastedit.cli.errors import UserError
from fastedit.cli.ids import key
from fastedit.cli.made_from import differences, is_made_from
from fastedit.cli.requests import Row
from fastedit.files.jsonl import parse

_OUR_LINES_BEGIN = b'{"index": '


class Finished(NamedTuple):
    """What an earlier run has left in a file of results."""

    indexes: set[int]  # of results, errors among them, that need not be made again
    failed: set[int]  # of these, those that are errors
    unknown: int  # results that do not say what they were made from


def finished(path: Path, rows: Sequence[Row], origin_of: Callable[[Row], str]) -> Finished:
    """The results of `rows` in `path`.

    origin_of: what a row's result is `made_from`. An error that was made from something else is
    no result: its row is decoded again, and the last line of a row is the one that counts. A last
    line that was cut off in the middle is removed from the file. Raises `UserError` where the file
    holds anything that cannot come from these rows, or a text that was made from something else;
    the file is then left as it is.
    """
    found = Finished(set(), set(), 0)
    if not path.is_file():  # there is none, or a pipe or device, of which nothing can be read back
        return found
    kept, unknown, number, tail = 0, 0, 0, b""
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                tail = line
                break
            kept += len(line)
            index, origin, failed = _written(path, number, line, rows)
            if index in found.indexes and index not in found.failed:
                raise UserError(
                    f"{path}:{number}: index {index} is there twice, as two runs at once leave it; "
                    "choose another --output, or remove this file"
                )
            found.failed.discard(index)
            found.indexes.discard(index)
            now = origin_of(rows[index])
            if failed and origin is not None and differences(origin, now) != []:
                continue
            found.indexes.add(index)
            if failed:
                found.failed.add(index)
            unknown += origin is None
            if origin is not None:
                _check_origin(path, number, origin, rows[index], now)
    if tail:
        if not _OUR_LINES_BEGIN.startswith(tail[: len(_OUR_LINES_BEGIN)]):
            raise UserError(f"{path}:{number}: is no line of results; choose another --output")
        with path.open("r+b") as file:
            file.truncate(kept)
    return found._replace(unknown=unknown)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _check_origin(path: Path, number: int, before: str, row: Row, now: str) -> None:
    changed = differences(before, now)
    if changed is None:
        raise UserError(
            f"{path}:{number}: was written by an earlier fastedit, which knew a model by its path "
            "only: whether it is still the same one cannot be told; choose another --output"
        )
    if changed:
        raise UserError(
            f"{path}:{number}: index {row.index} (line {row.line} of the input) was made from "
            f"{' and '.join(changed)}; choose another --output"
        )


def _written(
    path: Path, number: int, line: bytes, rows: Sequence[Row]
) -> tuple[int, str | None, bool]:
    """(index, made_from, whether it is an error) of a line of results."""
    where = f"{path}:{number}"
    advice = "choose another --output, or remove this file"
    try:
        value = parse(line)
        index, _ = value["index"], value["error" if "error" in value else "text"]
        origin = value.get("made_from")
        name = key(value.get("id"))
        if origin is not None and not is_made_from(origin):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{where}: is no line of results; {advice}") from None
    if type(index) is not int or not 0 <= index < len(rows):
        raise UserError(
            f"{where}: index {index!r} is outside the input's 0..{len(rows) - 1}, so this file "
            f"belongs to another input; {advice}"
        )
    if name != key(rows[index].id):
        raise UserError(
            f"{where}: id {value.get('id')!r} where the input has {rows[index].id!r}, so this file "
            f"belongs to another input; {advice}"
        )
    return index, origin, "error" in value
