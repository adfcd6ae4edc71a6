"""A full disk is known by its error, whoever wrote: Python, a library in Rust, torch."""

from __future__ import annotations

import errno
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from fastedit.files.disk import full


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_system_says_so(code):
    assert full(OSError(code, os.strerror(code), "file")) == os.strerror(code)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "No space left on device"),  # its number counts
        ValueError("something else"),
        RuntimeError(
            "PytorchStreamReader failed reading zip archive: failed finding central directory"
        ),
        torch.OutOfMemoryError("CUDA out of memory"),
        KeyError(),
    ],
)
def test_other_errors_are_none(error):
    assert full(error) is None


def tokenizer(path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({str(i): i for i in range(9999)}, "0")).save(str(path))


WRITERS = {
    "python": lambda path: path.write_bytes(bytes(99_999)),
    "safetensors": lambda path: save_file({"x": torch.zeros(99_999)}, path),
    "torch": lambda path: torch.save(torch.zeros(99_999), path),
    "tokenizers": tokenizer,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_that_writes_is_understood(writer, tmp_path):
    """A file that may not grow stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(Exception) as raised:
            WRITERS[writer](tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full(raised.value)
