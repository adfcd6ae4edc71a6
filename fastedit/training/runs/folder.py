"""The folder of a run: what lies in it, and whether a run may begin or go on there."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastedit.files.disk import full
from fastedit.files.locks import locked_folder
from fastedit.training.runs.checkpoints import (
    PREFIX,
    UNFINISHED,
    checkpoints,
    last_step,
    write_text,
)
from fastedit.training.runs.settings import RunOptions

PACKAGE = "fastedit-dlm"
FACTS = "run.json"
CURVES = "curves.png"
METRICS, VALIDATION, SAMPLES = LOGS = ("metrics.jsonl", "validation.jsonl", "samples.jsonl")
ADAPTER, WEIGHTS, HEAD = RESULTS = ("adapter", "checkpoint", "head")
# Where a launcher says which of its processes this is: torchrun, then those of MPI.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def first_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one.

    Told by what started them: they have not met yet.
    """
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def check_writable(output: Path) -> None:
    """Raises OSError where no folder can be made at `output`, or nothing written into it."""
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"--output {output} cannot be a folder: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"--output {output} cannot be written: no permission in {nearest}")


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Hold the folder of a run, by the first of its processes, see `fastedit.files.locks`.

    Raises BlockingIOError where another run has it. Where the disk fills up, an OSError says what
    there is to go on from, and what was half written is removed: it takes the room of the rest.
    """
    with locked_folder(output) if first_process() else nullcontext():
        try:
            yield
        except Exception as error:
            reason = full(error)
            if reason is None:
                raise
            if first_process():
                clean(output)
            saved = checkpoints(output)
            left = f"goes on from {saved[-1]}" if saved else "starts anew: no checkpoint is saved"
            raise OSError(
                f"cannot write {output}: {reason}; make room, and the same command with --resume "
                f"{left}"
            ) from error


def run_to_go_on(output: Path, resume: bool) -> dict[str, Any] | None:
    """The facts of the run in `output`; None where a new one begins, and nothing would be lost.

    A run that stopped before it saved, validated or decoded anything left nothing to lose. Raises
    FileExistsError for one that went on while `resume` is off, and for files that a run would
    overwrite and none has made.
    """
    facts = _read(output / FACTS)
    if facts is None:
        own = {FACTS, CURVES, UNFINISHED, *LOGS, *RESULTS}
        names = sorted(path.name for path in output.glob("*"))
        taken = [n for n in names if n in own or _names_checkpoint(n)]
        if taken:
            raise FileExistsError(
                f"{output} holds {', '.join(taken)}, which a run would overwrite, but no {FACTS} "
                "of a run: move them away, or give another --output"
            )
        return None
    results = any((output / name).exists() for name in RESULTS)
    measured = any(last_step(output / name) for name in (VALIDATION, SAMPLES))
    # Steps alone are worth nothing, unless they are a whole run, of which the rest was moved away.
    whole = last_step(output / METRICS) >= (facts["options"].get("steps") or 1)
    begun = checkpoints(output) or results or measured or whole
    if begun and not resume:
        raise FileExistsError(f"{output} holds a run: pass --resume to go on, or another --output")
    return facts if begun else None


def check_resumed(asked: Path, output: Path, last: Path | None) -> None:
    """Raises ValueError where a run in `output` does not go on from `asked`."""
    if asked.resolve() not in {path.resolve() for path in (output, last) if path is not None}:
        raise ValueError(
            f"resume={str(asked)!r}: a run goes on in its own folder {output}, from its last "
            f"checkpoint ({last or 'there is none'})"
        )


def check_same(
    before: dict[str, Any],
    options: RunOptions,
    fingerprint: str,
    model: dict[str, str] | None = None,
) -> None:
    """Raises ValueError where `before` are the facts of another run; warns of other libraries.

    fingerprint  of the data
    model        `fastedit.models.identity` of the checkpoint; None: it is not compared
    """
    differences = options.differences(before["options"])
    if differences:
        raise ValueError(
            f"{options.output} was trained with {'; '.join(differences)}: --resume goes on with "
            "the same options only; give those, or another --output"
        )
    if model is not None:
        _check_checkpoint(before, options, model)
    if fingerprint != before["data"]:
        raise ValueError(
            f"{options.output} was trained on other data: a file or the tokenizer changed; "
            "restore it, or give another --output"
        )
    changed = [n for n, v in _versions().items() if before["versions"].get(n) != v]
    if changed:
        warnings.warn(
            f"{', '.join(changed)} changed since this run began: losses may differ", stacklevel=3
        )


def _check_checkpoint(before: dict[str, Any], options: RunOptions, model: dict[str, str]) -> None:
    if "model" in before:
        changed = [name for name, digest in model.items() if digest != before["model"].get(name)]
        if changed:
            raise ValueError(
                f"{options.output} was trained from {before['checkpoint']}, and now "
                f"{options.checkpoint} has other {' and '.join(changed)}: restore the checkpoint, "
                "or give another --output"
            )
        return
    # An earlier fastedit noted the name alone.
    name = before["options"].get("checkpoint", options.checkpoint)
    if name != options.checkpoint:
        raise ValueError(
            f"{options.output} was trained with checkpoint={name}, not {options.checkpoint}: give "
            "that one, or another --output"
        )
    warnings.warn(
        f"{options.output}/{FACTS} is of an earlier fastedit and does not say what was in "
        f"{name}: if that checkpoint changed since, start anew in another --output",
        stacklevel=4,
    )


def begin(
    options: RunOptions,
    fingerprint: str,
    before: dict[str, Any] | None = None,
    model: dict[str, str] | None = None,
) -> None:
    """Make the folder, say in it what this run is, and remove what a killed one was writing.

    before              the facts of the run that goes on, which stay: they say how it began
    fingerprint, model  as of `check_same`
    """
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    if before is None:
        facts = {"options": options.facts(), "checkpoint": options.checkpoint}
        facts |= {"model": model} if model is not None else {}
        facts |= {"data": fingerprint, "versions": _versions()}
        write_text(output / FACTS, json.dumps(facts, indent=2))
    clean(output)


def clean(output: Path) -> None:
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)


def _names_checkpoint(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).isdecimal()


def _read(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or where it is somebody else's."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(facts, dict) and facts.keys() >= {"options", "data", "versions"}
    return facts if ours else None


def _versions() -> dict[str, str]:
    found = {PACKAGE: "source"}  # where it is not installed
    for name in (PACKAGE, "torch", "transformers", "accelerate", "peft", "numpy"):
        with suppress(PackageNotFoundError):  # all weights train without peft
            found[name] = version(name)
    return found
