"""One run at a time on an output: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

_NOT_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# A lock file that cannot be made, beside an output that may well be written.
_NO_FILE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
_OURS = b'{"pid": '  # how what we write begins
_LONGEST = 120  # characters of a command in a message

_held: set[int] = set()  # descriptors


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold `output`, a folder or a file that may not exist yet, against every other process.

    The lock is of the operating system (flock), on `.lock` in a folder and `NAME.lock` beside a
    file, so a process that is killed holds nothing. The file says who has it, and is removed at the
    end. Pipes and devices are not locked.

    Raises BlockingIOError that says who holds it, and OSError where no lock can be written, or a
    file of somebody else has its name.
    """
    try:
        real = output.resolve()
    except (OSError, RuntimeError) as error:  # Python 3.11 raises the second for a loop of links
        raise OSError(f"{output} leads nowhere: its links go round in a circle") from error
    special = output.exists() and not output.is_file() and not output.is_dir()
    if special:
        yield
        return
    lock = real / ".lock" if real.is_dir() else real.with_name(real.name + ".lock")
    descriptor = _acquire(lock, output)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a process that was forked meanwhile
            with contextlib.suppress(OSError):
                lock.unlink()  # while it is held, so that it is nobody else's
            _held.remove(descriptor)
            os.close(descriptor)


@contextlib.contextmanager
def locked_folder(output: Path) -> Iterator[None]:
    """`locked` on a folder, made for it; if nothing is written, it is removed again."""
    made = [p for p in (output, *output.absolute().parents) if not p.exists()]
    output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(output):
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty: there is a run
            for folder in made:
                folder.rmdir()


def _acquire(lock: Path, output: Path) -> int:
    """A descriptor that holds the lock; -1, with a warning, where there can be none."""
    import fcntl

    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            return _unlocked(output, error)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise BlockingIOError(
                    f"{output} is in use by {_holder(lock)}: wait for its end, or give another "
                    "--output"
                ) from None
            if error.errno not in _NOT_HERE:
                raise
            return _unlocked(output, error)
        if _is_at(descriptor, lock):
            break
        os.close(descriptor)  # the run before removed it in between
    begins = os.pread(descriptor, len(_OURS), 0)
    if not _OURS.startswith(begins):
        os.close(descriptor)
        raise FileExistsError(
            f"{lock} would lock {output}, but no run has made it: move it away, or give another "
            "--output"
        )
    _held.add(descriptor)
    with contextlib.suppress(OSError):  # on a full disk nobody is named
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
    return descriptor


def _unlocked(output: Path, error: OSError) -> int:
    warnings.warn(
        f"{output} cannot be locked here ({error.strerror}): start no second run on it",
        stacklevel=5,
    )
    return -1


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(sys.orig_argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _holder(lock: Path) -> str:
    """Who holds a lock, in words of one line."""
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        command = " ".join(str(holder["command"]).split())
        command = command if len(command) <= _LONGEST else command[:_LONGEST] + "..."
        return (
            f"another run (pid {holder['pid']} on {holder['host']} since {holder['started']}: "
            f"{command})"
        )
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another run"


def _let_go() -> None:
    """In a forked process, which would hold what its parent held beyond the parent's end."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
