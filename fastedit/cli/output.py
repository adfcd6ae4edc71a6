"""The output of a command, which belongs to one run at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from fastedit.cli.errors import one_line


@contextlib.contextmanager
def held(
    output: Path | None, lock: Callable[[Path], AbstractContextManager[None]]
) -> Iterator[None]:
    """Hold `output`, if there is one, with `lock` of `fastedit.files.locks`.

    Raises `UserError` where it cannot. What is raised while it is held stays as it is.
    """
    with contextlib.ExitStack() as stack:
        if output is not None:
            with one_line(OSError):
                stack.enter_context(lock(output))
        yield
