"""What a checkpoint or an adapter is, told by the bytes of its files and not by where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .checkpoint_files import check_folder

# A file beyond this many bytes is known by its size, the second it was written in and slices of it.
LARGE = 10**9
_SLICES, _SLICE = 64, 1 << 20

_CONFIG = ("config.json", "generation_config.json")
# As transformers knows them; everything that turns texts into ids, or ids into text.
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
)
_HEAD = ("correction_head.json", "correction_head.safetensors")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def checkpoint_digests(folder: Path) -> dict[str, str]:
    """Digests of the "weights" with their config, and of the "tokenizer", of a checkpoint.

    Other files, such as a README or the state of a trainer, make no other model. Raises OSError and
    CheckpointError where the folder is no checkpoint.
    """
    return {
        "weights": _digest(folder, [*_found(folder, _CONFIG), *check_folder(folder)]),
        "tokenizer": _digest(folder, _found(folder, _TOKENIZER)),
    }


def adapter_digest(folder: Path) -> str:
    """Of an adapter: its weights, its config, and the tokenizer that it may bring."""
    return _digest(folder, _found(folder, (*_ADAPTER, *_TOKENIZER)))


def head_digest(folder: Path) -> str:
    """Of a correction head, whatever lies beside it."""
    return _digest(folder, _found(folder, _HEAD))


def _found(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def _digest(folder: Path, files: Iterable[Path]) -> str:
    """Of names within the folder and contents. Each file is read once."""
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{_content(path)}\n".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= LARGE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for number in range(_SLICES):
            file.seek(number * (size - _SLICE) // (_SLICES - 1))
            digest.update(file.read(_SLICE))
        # Whole seconds: not every copy keeps more of the time.
        return f"{size} {int(path.stat().st_mtime)} {digest.hexdigest()}"
