"""What the name of a checkpoint or adapter means: a folder here, or an id on the Hub."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path

_TINY = 'the embedded checkpoint is called "tiny"'


def folder_or_id(name: str, kind: str) -> str:
    """`name` with `~` expanded. Raises FileNotFoundError for what can only be a missing folder.

    kind: "checkpoint" or "adapter". Hub ids are `owner/name`: a path with another number of
    slashes, or whose first part is a folder here, is none; nor is a misspelt "tiny".
    """
    path = os.path.expanduser(name)
    folder = Path(path)
    if folder.is_dir():
        return path
    if folder.exists():
        raise FileNotFoundError(f"{kind} {name!r} is not a folder (of config.json and weights)")
    owner, slash, _ = path.partition("/")
    if path.startswith((".", "/")) or path.count("/") > 1 or (slash and Path(owner).is_dir()):
        raise FileNotFoundError(f"{kind} {name!r} is not a folder: there is none at {path}")
    if kind == "checkpoint" and not slash and difflib.get_close_matches(name.lower(), ["tiny"]):
        raise FileNotFoundError(f"there is no {kind} {name!r}: did you mean 'tiny'? {_TINY}")
    return path


@contextlib.contextmanager
def named(name: str, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Where loading something from the Hub fails with one of `errors`, say what was asked for."""
    try:
        yield
    except errors as error:
        if Path(os.path.expanduser(name)).is_dir():
            raise
        raise OSError(
            f"{kind} {name!r}: there is no such folder here, and the Hub did not give it "
            f"({' '.join(str(error).split())}); {_TINY}"
        ) from error
