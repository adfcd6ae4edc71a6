"""`fastedit generate --input`: a file of requests into a file of results, as they end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer

from fastedit.cli.errors import InterruptedRunError, UserError, one_line
from fastedit.cli.ids import check_ids
from fastedit.cli.jsonl import LineErrors, Row, finished_indexes, read_rows, write_record
from fastedit.cli.made_from import made_from, model_part
from fastedit.cli.output import held
from fastedit.cli.prompts import as_prompt
from fastedit.cli.terminal import counting, stderr_console
from fastedit.locks import locked

if TYPE_CHECKING:
    from fastedit.decoding import DecodeConfig, Decoder

# Checkpoint, adapter, revision and dtype, as they were given.
ModelNames = tuple[str, str | None, str | None, str]


def decode_file(
    load: Callable[[], Decoder],
    config: DecodeConfig,
    source: Path,
    target: Path | None,
    raw: bool,
    model: ModelNames,
) -> int:
    """Decode what `target` (None: stdout) lacks of `source`; returns the number of failed rows.

    model: what `load` loads. The whole of `source` is checked before the first model call. Raises
    `UserError`.
    """
    rows = read_rows(source)
    check_ids(rows, source)
    configs = _checked_configs(rows, config, source)
    if target is not None:
        _check_target(target, source)
    with held(target, locked):
        return _decode_rows(load, rows, configs, source, target, raw, model)


def _decode_rows(
    load: Callable[[], Decoder],
    rows: list[Row],
    configs: list[DecodeConfig],
    source: Path,
    target: Path | None,
    raw: bool,
    model: ModelNames,
) -> int:
    origins = _origins(rows, configs, raw, model)
    done = _finished(target, rows, origins) if target is not None else set()
    left = [row for row in rows if row.index not in done]
    if not left:
        _say(f"nothing to do: all {len(rows)} results are in {target}")
        return 0
    decoder = load()
    _check_prompts(left, decoder, source, raw)
    written = failed = 0
    decoding = True
    try:
        with _opened(target) as file, counting("decoding", len(rows), len(done)) as advance:
            for record in _decoded(left, decoder, raw):
                decoding = False
                write_record(file, _with_origin(record, origins))
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
    return failed


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
    from fastedit.decoding.identity import identity

    checkpoint, adapter, revision, dtype = model
    with stderr_console().status("reading the checkpoint"), one_line(OSError, ValueError):
        known = model_part(identity(checkpoint, adapter, revision), dtype)
    return [made_from(row, own, raw, known) for row, own in zip(rows, configs, strict=True)]


def _check_target(target: Path, source: Path) -> None:
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise UserError(f"--output {target} is a folder: give the name of a file in it")
    if target.exists() and target.samefile(source):
        raise UserError(f"--output would overwrite the input {source}")


def _finished(target: Path, rows: list[Row], origins: list[str]) -> set[int]:
    done, unknown = finished_indexes(target, rows, origins)
    if unknown:
        _say(
            f"warning: {unknown} lines of {target} do not say what they were made from; they are "
            "kept as results of this command"
        )
    return done


def _checked_configs(rows: list[Row], config: DecodeConfig, source: Path) -> list[DecodeConfig]:
    errors, configs = LineErrors(source), []
    for row in rows:
        try:
            configs.append(config.replace(**row.options))
        except (ValueError, TypeError) as error:
            errors.add(row.line, error)
    errors.raise_any()
    return configs


def _check_prompts(rows: list[Row], decoder: Decoder, source: Path, raw: bool) -> None:
    errors = LineErrors(source)
    for row in rows:
        try:
            # Checks prompt and options; nothing runs until the first event is asked for.
            decoder.stream(_prompt(row, decoder, raw), **row.options)
        except Exception as error:
            errors.add(row.line, str(error).removeprefix("prompt 0").lstrip(": "))
    errors.raise_any()


def _prompt(row: Row, decoder: Decoder, raw: bool) -> Any:
    return as_prompt(decoder, row.prompt, raw) if isinstance(row.prompt, str) else row.prompt


def _decoded(rows: list[Row], decoder: Decoder, raw: bool) -> Iterator[dict[str, Any]]:
    """Results as they end. Rows that one forward can serve decode together, whatever else differs.

    A row leaves as soon as it has ended and the next one takes its place.
    """
    from fastedit.decoding.engine import Engine

    groups: dict[str, list[tuple[Row, DecodeConfig]]] = {}
    for row in rows:
        config = decoder.config.replace(**row.options)
        shared = [getattr(config, name) for name in Engine.SHARED]
        groups.setdefault(repr(shared), []).append((row, config))
    for group in groups.values():
        prompts = [_prompt(row, decoder, raw) for row, _ in group]
        for result in decoder.as_completed(prompts, config=[config for _, config in group]):
            row, _ = group[result.index]
            yield _record(row, result.text, result.error) | {"stats": result.stats.as_dict()}


def _record(row: Row, text: str | None, error: Exception | None) -> dict[str, Any]:
    record: dict[str, Any] = {"index": row.index, "id": row.id}
    if error is None:
        return record | {"text": text}
    place = f"request {getattr(error, 'index', '')}: "  # its place in the batch means nothing here
    return record | {"error": str(error).removeprefix(place)}


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
