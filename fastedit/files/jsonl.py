"""Files of JSON Lines: of requests and of training examples, read by one parser."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import math
import os
import re
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

SHOWN_ERRORS = 10
STDIN = "-"
ON_BAD_LINE = ("stop", "skip")
# What `parse` may raise, and what goes through the object of a line.
UNREADABLE = (ValueError, TypeError, RecursionError)
_GZIP = b"\x1f\x8b"
# How files of other kinds begin.
_KINDS = {
    b"\xff\xfe\x00\x00": "UTF-32 text",
    b"\x00\x00\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"SQLite format 3": "an SQLite database",
    b"PK\x03\x04": "a ZIP archive (or a spreadsheet)",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ\x00": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"%PDF": "a PDF document",
}
_ADVICE = {
    "text": "write it as UTF-8, as `iconv -f {0} -t UTF-8 IN > OUT` does",
    "compressed": "decompress it, or compress it with gzip",
    "tables": "write JSON Lines, as `datasets` does with `to_json` and pandas with "
    '`to_json(path, orient="records", lines=True)`',
    "array": "write an object per line, as `jq -c '.[]' IN > OUT` does",
    "object": "write it in one line, as `jq -c . IN > OUT` does",
}
_DELIMITED = re.compile(r'\s*"?[\w .-]+"?\s*([,;\t]\s*"?[\w .-]+"?\s*)+')


class DataError(ValueError):
    """What is wrong with a file; one line per finding, with file and line number."""


class BadLines:
    """Collects what is wrong with lines; `check` then raises or warns.

    policy  "stop", or "skip": go on without them
    advice  a last line of the error
    """

    def __init__(
        self,
        policy: str = "stop",
        advice: str = "mend or remove these lines, or pass --on-bad-line skip",
    ) -> None:
        if policy not in ON_BAD_LINE:
            raise ValueError(f"on_bad_line must be 'stop' or 'skip'; got {policy!r}")
        self.policy, self.advice = policy, advice
        self.found: list[str] = []

    def add(self, where: str, reason: Exception | str) -> str:
        """Returns the finding as one line."""
        self.found.append(f"{where}: {as_line(reason)}")
        return self.found[-1]

    def check(self) -> None:
        """Raises DataError with the first findings, or, where they are to be skipped, warns."""
        if not self.found:
            return
        more = len(self.found) - SHOWN_ERRORS
        lines = self.found[:SHOWN_ERRORS] + ([f"... and {more} more"] if more > 0 else [])
        if self.policy == "skip":
            lines.insert(0, f"skipped {len(self.found)} bad lines of the data")
            warnings.warn("\n  ".join(lines), stacklevel=2)
            return
        raise DataError("\n".join([*lines, *([self.advice] if self.advice else [])]))


def as_line(reason: Exception | str) -> str:
    """What an error says, in one line; what kind it is where it says nothing."""
    return " ".join(str(reason).split()) or type(reason).__name__


class Lines:
    """Lines of a file, of a gzipped one, or of standard input ("-"), as UTF-8 without its BOM.

    They are read one at a time, more than once and in any order. What is compressed, or comes
    through a pipe, is copied to a temporary file first. Raises OSError, and DataError for a file
    that is no JSON Lines: it says what the file is, and what to do.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        name = os.fspath(source)
        opened = sys.stdin.buffer if name == STDIN else Path(name).open("rb")  # noqa: SIM115
        self._file = _seekable(opened, source)
        try:
            self._begin = 3 if self._file.read(3) == b"\xef\xbb\xbf" else 0
            kind, advice = self._other_kind(Path(name).suffix.lower())
        except BaseException:
            self.close()
            raise
        if kind:
            self.close()
            raise DataError(f"{shown(source)} is {kind}, not JSON Lines: {advice}")

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """(number from 1, as editors count, place for `at`, content), without blank lines."""
        place = self._begin
        for number in itertools.count(1):
            line = self.at(place)
            if not line:
                return
            if line.strip():
                yield number, place, line.removesuffix(b"\n")
            place += len(line)

    def at(self, place: int) -> bytes:
        """The line that begins there, with its end."""
        self._file.seek(place)
        return self._file.readline()

    def whole(self) -> bytes:
        """All of them at once."""
        self._file.seek(self._begin)
        return self._file.read()

    def _other_kind(self, suffix: str) -> tuple[str, str]:
        """(what the file is, what to do about it); two empty texts for JSON Lines, good or bad.

        All of it is read only where its first line is no object by itself.
        """
        self._file.seek(self._begin)
        kind, advice = _foreign(self._file.read(4096))
        if kind:
            return kind, advice
        few = [line.strip() for _, _, line in itertools.islice(self, 2)]
        first, alone = (few or [b""])[0], len(few) < 2
        if first[:1] == b"[" and (alone or not _is_json(first)) and _is_json(self.whole()):
            return "a JSON array", _ADVICE["array"]
        if first[:1] == b"{" and not alone and not _is_json(first) and _is_json(self.whole()):
            return "one JSON object over several lines", _ADVICE["object"]
        line = first.decode(errors="replace")
        table = suffix in (".csv", ".tsv") or (first[:1] != b"{" and _DELIMITED.fullmatch(line))
        if table and not _is_json(first):
            return "a CSV or TSV table", _ADVICE["tables"]
        return "", ""


def _seekable(file: IO[bytes], source: str | os.PathLike[str]) -> IO[bytes]:
    """The file itself, or a copy of what it holds that can be read from anywhere."""
    begins = file.read(2) if file.seekable() else b""
    if begins != _GZIP and file.seekable() and os.fspath(source) != STDIN:
        file.seek(0)
        return file
    with contextlib.ExitStack() as stack:
        if os.fspath(source) != STDIN:
            stack.enter_context(file)
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        if file.seekable():
            file.seek(-len(begins), os.SEEK_CUR)
        shutil.copyfileobj(file, copy)
    copy.seek(0)
    if copy.read(2) != _GZIP:
        copy.seek(0)
        return copy
    copy.seek(0)
    plain = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with copy, gzip.GzipFile(fileobj=copy) as packed:
            shutil.copyfileobj(packed, plain)
    except (OSError, EOFError, zlib.error) as error:
        plain.close()
        raise DataError(f"{shown(source)} is no whole gzip file: {error}") from error
    plain.seek(0)
    return plain


def read_lines(source: str | os.PathLike[str]) -> list[bytes]:
    """All of `Lines`, blank ones too, so that line n is item n - 1. Raises as it does."""
    with contextlib.closing(Lines(source)) as lines:
        return lines.whole().split(b"\n")


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, and their numbers from 1, as editors count."""
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def shown(source: str | os.PathLike[str]) -> str:
    """What messages call a file."""
    return "standard input" if os.fspath(source) == STDIN else os.fspath(source)


def place(source: str | os.PathLike[str], number: int) -> str:
    """What messages call a line."""
    return f"{shown(source)}:{number}"


def check_kind(path: str | os.PathLike[str]) -> None:
    """Raises OSError and DataError, as `read_lines` does, for what the first bytes tell."""
    with Path(path).open("rb") as file:
        head = file.read(4096)
    kind, advice = _foreign(head)
    if kind:
        raise DataError(f"{os.fspath(path)} is {kind}, not JSON Lines: {advice}")


def write_line(file: IO[str], record: Mapping[str, Any]) -> None:
    """One line, in the file before this returns."""
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()


def parse(line: bytes) -> dict[str, Any]:
    """The object in a line. Raises ValueError for what JSON or UTF-8 does not allow."""
    try:
        text = line.decode()
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
        if "\\ud" in text.lower():  # only an escape can spell half a character
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(error)) from None
    except UnicodeEncodeError:
        raise ValueError(
            "is not valid UTF-8 text: it holds a lone surrogate; write the whole character"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    return value


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with bytes, and what to do."""
    byte, advice = error.object[error.start], _ADVICE["text"].format("LATIN1")
    return f"is not valid UTF-8 text: byte 0x{byte:02x} at offset {error.start}; {advice}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice!r} twice: keep one of them")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not JSON: write null or a number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"holds {text[:20]}, which is too large for a number: write it as a text")
    return value


def _foreign(head: bytes) -> tuple[str, str]:
    """The same of a file that is no UTF-8 text, by its first bytes."""
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind, _advice(kind)
    if b"\x00" in head and not head.startswith(_GZIP):
        odd, even = head[1::2].count(0), head[::2].count(0)
        if max(odd, even) > len(head) // 4 and min(odd, even) <= len(head) // 100:
            return "UTF-16 text", _advice("UTF-16 text")
        return "a binary file", _ADVICE["tables"]
    return "", ""


def _advice(kind: str) -> str:
    if kind.endswith("text"):
        return _ADVICE["text"].format(kind.split()[0])
    return _ADVICE["compressed" if "compressed" in kind else "tables"]


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
