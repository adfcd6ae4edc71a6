"""An adapter as part of the weights: a whole checkpoint that needs no peft."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastedit.heads import CorrectionHead, NextTokenHead
from fastedit.models.load import load
from fastedit.training.runs.folder import HEAD

HEADS = (CorrectionHead, NextTokenHead)


class Merged(NamedTuple):
    """A checkpoint that was written. head: the folder in it of a head that came along, if any;
    left: one of the checkpoint before, which did not."""

    folder: Path
    head: Path | None
    left: Path | None


def merge(
    checkpoint: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    head: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str = "auto",
) -> Merged:
    """Write `checkpoint` with `adapter` merged into its weights to the new folder `output`.

    Weights are safetensors with the names that the family has on the Hub, in the dtype they have;
    ids of control tokens stand in the config, new tokens in the tokenizer, rows that trained in the
    weights. What `Decoder.from_pretrained(output)` decodes is what it decodes with the adapter.

    head  folder of a head that goes along, into `output/head`; None: one that lies in the folder of
          the adapter, or in `head` beside it, where a run leaves it

    The folder appears whole or not at all. Raises FileExistsError where there is something at
    `output`, and ImportError, OSError and ValueError as loading does.
    """
    target = Path(output)
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} exists: give a new folder, or remove it")
    found = _head(Path(head)) if head is not None else next(_heads_of(adapter), None)
    model, tokenizer = load(checkpoint, adapter, dtype, "cpu", revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
        unfinished = Path(beside) / target.name
        model.save_pretrained(unfinished)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        if found is not None:
            kind, folder = found
            (unfinished / HEAD).mkdir()
            for suffix in ("json", "safetensors"):
                shutil.copy2(folder / f"{kind.name}.{suffix}", unfinished / HEAD)
        os.rename(unfinished, target)
    of_base = next(_heads_in(Path(checkpoint)), None) if found is None else None
    return Merged(target, target / HEAD if found else None, of_base[1] if of_base else None)


def _head(folder: Path) -> tuple[Any, Path]:
    """The kind of the head in a folder. Raises OSError and ValueError for one that is damaged."""
    kind = next((kind for kind in HEADS if kind.is_in(folder)), HEADS[0])
    kind.from_pretrained(folder)
    return kind, folder


def _heads_of(adapter: str | os.PathLike[str]) -> Iterator[tuple[Any, Path]]:
    yield from _heads_in(Path(adapter))
    yield from _heads_in(Path(adapter).parent)


def _heads_in(folder: Path) -> Iterator[tuple[Any, Path]]:
    for place in (folder, folder / HEAD):
        if place.is_dir() and any(kind.is_in(place) for kind in HEADS):
            yield _head(place)
