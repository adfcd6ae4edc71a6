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
    slashes, or whose first part is a folder here, is none.
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
    if not slash:  # no name on the Hub, so nothing to wait for
        known = difflib.get_close_matches(name.lower(), ["tiny"] if kind == "checkpoint" else [])
        meant = (
            f"did you mean 'tiny'? {_TINY}" if known else f"ids on the Hub are owner/name; {_TINY}"
        )
        raise FileNotFoundError(f"there is no {kind} {name!r} here: {meant}")
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
