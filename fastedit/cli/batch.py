"""`fastedit generate --input`: a file of requests into a file of results, as they end."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from fastedit.chats.template import as_user
from fastedit.cli.errors import InterruptedRunError, UserError, one_line
from fastedit.cli.ids import check_ids
from fastedit.cli.made_from import made_from, model_part
from fastedit.cli.output import held
from fastedit.cli.requests import Form, Row, Rows
from fastedit.cli.results import Finished, finished
from fastedit.cli.terminal import counting, stderr_console, tell
from fastedit.cli.tracing import Keep, traced
from fastedit.files.jsonl import STDIN, BadLines, DataError, write_line
from fastedit.files.locks import locked

if TYPE_CHECKING:
    from fastedit.config import DecodeConfig
    from fastedit.decoder import Decoder


class ModelNames(NamedTuple):
    """What says which model answers, as it was given."""

    checkpoint: str
    adapter: str | None
    revision: str | None
    dtype: str
    head: str | None = None


def decode_file(
    load: Callable[[], Decoder],
    config: DecodeConfig,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    form: Form,
    model: ModelNames,
    on_bad_line: str = "stop",
    trace: Path | None = None,
) -> int:
    """Decode what `target` (None: stdout) lacks of `source`; returns the number of failed rows.

    model: what `load` loads. The whole of `source` is checked before the first model call, and
    read again line by line as requests are decoded. on_bad_line="skip": a line that cannot be
    decoded gets a result that says why. trace: where the traces of what is decoded go, behind those
    that are there where `target` has results. Raises `UserError`.
    """
    source, target = Path(source), None if target is None else Path(target)
    bad = BadLines(on_bad_line, advice="")
    with contextlib.closing(Rows(source, form, bad)) as rows:
        check_ids(rows, source)
        _check_configs(rows, config)
        _stop(bad)
        if target is not None:
            _check_target(target, source)
        with held(target, locked):
            return _decode_rows(load, rows, config, target, model, trace)


def _decode_rows(
    load: Callable[[], Decoder],
    rows: Rows,
    config: DecodeConfig,
    target: Path | None,
    model: ModelNames,
    trace: Path | None,
) -> int:
    origin_of, raw, bad = _origins(config, rows.form.raw, model), rows.form.raw, rows.bad
    before = _finished(target, rows, origin_of)
    done = before.indexes
    if len(done) == len(rows):
        errors = f", {len(before.failed)} of them errors" if before.failed else ""
        tell(f"nothing to do: all {len(rows)} results are in {target}{errors}")
        return len(before.failed)
    decoder = load() if any(_left(rows, done)) else None
    if decoder is not None:
        _check_prompts(rows, done, decoder)
    _stop(bad)
    bad.check()
    written = failed = 0
    decoding = True
    try:
        with (
            _opened(target) as file,
            traced(trace, bool(done)) as keep,
            counting("decoding", len(rows), len(done)) as advance,
        ):
            for row, record in _results(rows, done, decoder, raw, keep):
                decoding = False
                write_line(file, _with_origin(record, origin_of(row)))
                decoding = True
                written += 1
                failed += "error" in record
                advance(1)
            decoding = False  # the file is yet to be closed
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted: {_kept(len(done), written, rows, target)}"
        ) from None
    except OSError as error:
        if decoding or isinstance(error, BrokenPipeError):  # a reader who has seen enough
            raise
        kept = _kept(len(done), written, rows, target)
        raise UserError(
            f"cannot write {target or 'to stdout'}: {error.strerror}; {kept}"
        ) from error
    _report(written, failed, len(done), target)
    return failed + len(before.failed)


def _kept(before: int, written: int, rows: Rows, target: Path | None) -> str:
    kept = f"{before + written} of {len(rows)} results are in {target or 'the output'}"
    return kept + ("; the same command goes on from there" if target else "")


def _with_origin(record: dict[str, Any], origin: str) -> dict[str, Any]:
    place = {"index": record["index"], "id": record["id"]}
    return place | {"made_from": origin} | record


def _origins(config: DecodeConfig, raw: bool, model: ModelNames) -> Callable[[Row], str]:
    """Says what a row's result is made from. Raises `UserError` where there is no such model."""
    from fastedit.models.identity import identity
    from fastedit.models.load import released_policy

    checkpoint, revision = model.checkpoint, model.revision
    with stderr_console().status("reading the checkpoint"), one_line(OSError, ValueError):
        found = identity(checkpoint, model.adapter, revision, model.head)
        known = model_part(found, model.dtype)
        default = released_policy(checkpoint, revision)
    return lambda row: made_from(row, config.replace(**row.options), raw, known, default)


def _left(rows: Rows, done: Collection[int]) -> Iterator[Row]:
    """Those that are to be decoded, read one by one."""
    return (rows[i] for i in range(len(rows)) if i not in done and i not in rows.refused)


def _check_target(target: Path, source: Path) -> None:
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise UserError(f"--output {target} is a folder: give the name of a file in it")
    if target.suffix == ".gz":
        raise UserError(f"--output {target}: results are written as they end, and not compressed")
    if target.exists() and str(source) != STDIN and target.samefile(source):
        raise UserError(f"--output would overwrite the input {source}")


def _finished(target: Path | None, rows: Rows, origin_of: Callable[[Row], str]) -> Finished:
    if target is None:
        return Finished(set(), set(), 0)
    found = finished(target, rows, origin_of)
    if found.unknown:
        tell(
            f"warning: {found.unknown} lines of {target} do not say what they were made from; they "
            "are kept as results of this command"
        )
    return found


def _stop(bad: BadLines) -> None:
    """Raises `UserError` where bad lines end the command."""
    if bad.policy == "stop":
        try:
            bad.check()
        except DataError as error:
            raise UserError(str(error)) from error


def _check_configs(rows: Rows, config: DecodeConfig) -> None:
    for row in rows:
        try:
            config.replace(**row.options)
        except (ValueError, TypeError) as error:
            rows.refuse(row, error)


def _check_prompts(rows: Rows, done: Collection[int], decoder: Decoder) -> None:
    for row in _left(rows, done):
        try:
            # Checks prompt and options; nothing runs until the first event is asked for.
            decoder.stream(as_user(row.prompt, decoder.tokenizer, rows.form.raw), **row.options)
        except Exception as error:
            rows.refuse(row, str(error).removeprefix("prompt 0").lstrip(": "))


def _results(
    rows: Rows,
    done: Collection[int],
    decoder: Decoder | None,
    raw: bool,
    keep: Keep | None,
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Of the rows that cannot be decoded, then of the others as they end."""
    for index in sorted(rows.refused):
        if index not in done:
            row = rows[index]
            error = {"error": row.bad, "line": row.line}
            yield row, {"index": row.index, "id": row.id} | error | row.kept
    if decoder is not None:
        yield from _decoded(_left(rows, done), decoder, raw, keep)


def _decoded(
    rows: Iterable[Row], decoder: Decoder, raw: bool, keep: Keep | None
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Results as they end. A row is read as there is room for it, and leaves when it has ended."""
    inside: dict[int, Row] = {}

    def read() -> Iterator[Row]:
        for number, row in enumerate(rows):
            inside[number] = row
            yield row

    asked, settings = itertools.tee(read())
    prompts = (as_user(row.prompt, decoder.tokenizer, raw) for row in asked)
    configs = (decoder.config.replace(**row.options) for row in settings)
    for result in decoder.as_completed(prompts, config=configs, trace=keep is not None):
        row = inside.pop(result.index)
        if keep is not None and result.trace is not None:
            keep(result.trace, row.index, row.id)
        stats = {"stats": result.stats.as_dict()}
        yield row, _record(row, result.text, result.error) | stats | row.kept


def _record(row: Row, text: str | None, error: Exception | None) -> dict[str, Any]:
    record: dict[str, Any] = {"index": row.index, "id": row.id}
    if error is None:
        return record | {"text": text}
    request = (
        f"request {getattr(error, 'index', '')}: "  # its place in the batch means nothing here
    )
    return record | {"error": str(error).removeprefix(request), "line": row.line}


@contextlib.contextmanager
def _opened(target: Path | None) -> Iterator[IO[str]]:
    if target is None:
        yield sys.stdout
        return
    try:
        file = target.open("a", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    with file:
        yield file


def _report(written: int, failed: int, before: int, target: Path | None) -> None:
    parts = [f"{written} results written" + (f" to {target}" if target else "")]
    parts += [f"{failed} of them failed"] if failed else []
    parts += [f"{before} were there already"] if before else []
    tell(", ".join(parts))
