"""Whether an error says that a disk is full, whoever wrote to it."""

from __future__ import annotations

import errno
import os
import re

# No room, no more room for this user, no more for this file.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries in Rust and C++ say so in words; torch.save only finds that a file is too short.
_WORDS = re.compile("|".join(os.strerror(code) for code in sorted(_FULL)))
_TORCH = re.compile(r"inline_container\.cc:\d+\] \. unexpected pos|PytorchStreamWriter failed")


def full(error: BaseException) -> str | None:
    """What is wrong with the disk, in words; None where the error is of another kind."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno in _FULL else None
    if _TORCH.search(str(error)):
        return "a file was cut off, as where no space is left"
    found = _WORDS.search(str(error))
    return found and found[0]
