"""`fastedit generate --input`: a file of requests into a file of results, as they end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from fastedit.chats.template import as_user
from fastedit.cli.errors import InterruptedRunError, UserError, one_line
from fastedit.cli.ids import check_ids
from fastedit.cli.made_from import made_from, model_part
from fastedit.cli.output import held
from fastedit.cli.requests import Form, Row, read_rows
from fastedit.cli.results import Finished, finished
from fastedit.cli.terminal import counting, stderr_console
from fastedit.files.jsonl import STDIN, BadLines, DataError, place, write_line
from fastedit.files.locks import locked

if TYPE_CHECKING:
    from fastedit.config import DecodeConfig
    from fastedit.decoder import Decoder

# Checkpoint, adapter, revision and dtype, as they were given.
ModelNames = tuple[str, str | None, str | None, str]


def decode_file(
    load: Callable[[], Decoder],
    config: DecodeConfig,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    form: Form,
    model: ModelNames,
    on_bad_line: str = "stop",
) -> int:
    """Decode what `target` (None: stdout) lacks of `source`; returns the number of failed rows.

    model: what `load` loads. The whole of `source` is checked before the first model call;
    on_bad_line="skip": a line that cannot be decoded gets a result that says why. Raises
    `UserError`.
    """
    source, target = Path(source), None if target is None else Path(target)
    bad = BadLines(on_bad_line, advice="")
    rows = read_rows(source, form, bad)
    check_ids(rows, source)
    rows, configs = _checked_configs(rows, config, source, bad)
    _stop(bad)
    if target is not None:
        _check_target(target, source)
    with held(target, locked):
        return _decode_rows(load, rows, configs, source, target, form.raw, model, bad)


def _decode_rows(
    load: Callable[[], Decoder],
    rows: list[Row],
    configs: list[DecodeConfig],
    source: Path,
    target: Path | None,
    raw: bool,
    model: ModelNames,
    bad: BadLines,
) -> int:
    origins = _origins(rows, configs, raw, model)
    before = _finished(target, rows, origins)
    done = before.indexes
    left = [row for row in rows if row.index not in done]
    if not left:
        errors = f", {len(before.failed)} of them errors" if before.failed else ""
        _say(f"nothing to do: all {len(rows)} results are in {target}{errors}")
        return len(before.failed)
    refused, left = [row for row in left if row.bad], [row for row in left if not row.bad]
    decoder = load() if left else None
    if decoder is not None:
        left = _checked_prompts(left, decoder, source, raw, bad)
        refused += [row for row in left if row.bad]
        left = [row for row in left if not row.bad]
    _stop(bad)
    bad.check()
    written = failed = 0
    decoding = True
    try:
        with _opened(target) as file, counting("decoding", len(rows), len(done)) as advance:
            for record in _results(refused, left, decoder, raw):
                decoding = False
                write_line(file, _with_origin(record, origins))
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


def _kept(before: int, written: int, rows: list[Row], target: Path | None) -> str:
    kept = f"{before + written} of {len(rows)} results are in {target or 'the output'}"
    return kept + ("; the same command goes on from there" if target else "")


def _with_origin(record: dict[str, Any], origins: list[str]) -> dict[str, Any]:
    place = {"index": record["index"], "id": record["id"]}
    return place | {"made_from": origins[record["index"]]} | record


def _origins(
    rows: list[Row], configs: list[DecodeConfig], raw: bool, model: ModelNames
) -> list[str]:
    """What each row's result is made from. Raises `UserError` where there is no such model."""
    from fastedit.models.identity import identity

    checkpoint, adapter, revision, dtype = model
    with stderr_console().status("reading the checkpoint"), one_line(OSError, ValueError):
        known = model_part(identity(checkpoint, adapter, revision), dtype)
    return [made_from(row, own, raw, known) for row, own in zip(rows, configs, strict=True)]


def _check_target(target: Path, source: Path) -> None:
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise UserError(f"--output {target} is a folder: give the name of a file in it")
    if target.suffix == ".gz":
        raise UserError(f"--output {target}: results are written as they end, and not compressed")
    if target.exists() and str(source) != STDIN and target.samefile(source):
        raise UserError(f"--output would overwrite the input {source}")


def _finished(target: Path | None, rows: list[Row], origins: list[str]) -> Finished:
    if target is None:
        return Finished(set(), set(), 0)
    found = finished(target, rows, origins)
    if found.unknown:
        _say(
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


def _checked_configs(
    rows: list[Row], config: DecodeConfig, source: Path, bad: BadLines
) -> tuple[list[Row], list[DecodeConfig]]:
    """Rows, those with a wrong option refused, and the config of each."""
    checked, configs = [], []
    for row in rows:
        own = config
        try:
            own = config.replace(**row.options)
        except (ValueError, TypeError) as error:
            row = row.refused(bad.add(place(source, row.line), error))
        checked.append(row)
        configs.append(own)
    return checked, configs


def _checked_prompts(
    rows: list[Row], decoder: Decoder, source: Path, raw: bool, bad: BadLines
) -> list[Row]:
    checked = []
    for row in rows:
        try:
            # Checks prompt and options; nothing runs until the first event is asked for.
            decoder.stream(as_user(row.prompt, decoder.tokenizer, raw), **row.options)
        except Exception as error:
            reason = str(error).removeprefix("prompt 0").lstrip(": ")
            row = row.refused(bad.add(place(source, row.line), reason))
        checked.append(row)
    return checked


def _results(
    refused: list[Row], rows: list[Row], decoder: Decoder | None, raw: bool
) -> Iterator[dict[str, Any]]:
    """Of the rows that cannot be decoded, then of the others as they end."""
    for row in refused:
        yield {"index": row.index, "id": row.id, "error": row.bad, "line": row.line} | row.kept
    if decoder is not None and rows:
        yield from _decoded(rows, decoder, raw)


def _decoded(rows: list[Row], decoder: Decoder, raw: bool) -> Iterator[dict[str, Any]]:
    """Results as they end. Rows that one forward can serve decode together, whatever else differs.

    A row leaves as soon as it has ended and the next one takes its place.
    """
    from fastedit.engine.prepare import shared

    groups: dict[str, list[tuple[Row, DecodeConfig]]] = {}
    for row in rows:
        config = decoder.config.replace(**row.options)
        together = repr(shared(config, decoder.family))
        groups.setdefault(together, []).append((row, config))
    for group in groups.values():
        prompts = [as_user(row.prompt, decoder.tokenizer, raw) for row, _ in group]
        for result in decoder.as_completed(prompts, config=[config for _, config in group]):
            row, _ = group[result.index]
            stats = {"stats": result.stats.as_dict()}
            yield _record(row, result.text, result.error) | stats | row.kept


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
    _say(", ".join(parts))


def _say(text: str) -> None:
    typer.echo(f"fastedit: {text}", err=True)
