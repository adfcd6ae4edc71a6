"""Checkpoints as they stand on disk or on the Hub: safetensors only, never remote code."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from fastedit.models.adapters import (
    Adapter,
    adapted_tokenizer,
    merge_adapter,
    read_adapter,
    tell_control_tokens,
)
from fastedit.models.checkpoint_files import check_folder
from fastedit.models.families import Checkpoints, known_kinds, row_of
from fastedit.models.places import folder_or_id, named

TINY = Path(__file__).parent.parent / "assets" / "tiny"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
# Of an adapter on the Hub: no pickles, and of subfolders only that they are there.
_ADAPTER_FILES = [
    "adapter_*.json",
    "adapter_model.safetensors",
    "*/adapter_config.json",
    "*token*",
    "vocab*",
    "merges.txt",
    "*chat_template*",
]


def load(
    path_or_id: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None,
    dtype: str | torch.dtype,
    device: str | torch.device,
    revision: str | None,
) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer or None); arguments as in `Decoder.from_pretrained`.

    Names, dtype and device are checked first: OSError and ValueError that say what is allowed.
    """
    path = checked_place(path_or_id, revision)
    found = None
    if adapter is not None:
        found = _adapter(folder_or_id(os.fspath(adapter), "adapter"))
    _check_dtype(dtype)
    target = _device(device)
    # With accelerate, shards go straight to the device instead of through the host's memory.
    direct = target.type != "cpu" and importlib.util.find_spec("accelerate") is not None
    with named(path, "checkpoint", OSError):
        made, row = class_of(path, revision)
        model: Any = made.from_pretrained(
            path,
            dtype=dtype,
            revision=revision,
            device_map={"": target} if direct else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    model = model.to(target)
    tokenizer = _tokenizer(path, revision, model.config, row)
    if found is not None:
        tokenizer = adapted_tokenizer(found, tokenizer, model.config)
        model = merge_adapter(model, found, tokenizer)
        tell_control_tokens(model.config, found.folder, found.name)
    return model.eval(), tokenizer


def checked_place(path_or_id: str | os.PathLike[str], revision: str | None) -> str:
    """The folder of a checkpoint, whose files are looked at, or its id on the Hub.

    Raises TypeError, OSError and ValueError.
    """
    if not isinstance(path_or_id, (str, os.PathLike)):
        raise TypeError(f'a checkpoint is a folder, a Hub id or "tiny"; got {path_or_id!r}')
    name = os.fspath(path_or_id)
    if name == "tiny" and revision is not None:
        raise ValueError(f'revision={revision!r}: the embedded checkpoint "tiny" has no revisions')
    path = str(TINY) if name == "tiny" else folder_or_id(name, "checkpoint")
    if Path(path).is_dir():
        check_folder(Path(path))
    return path


def class_of(path: str, revision: str | None) -> tuple[Any, Checkpoints]:
    """The model class of a checkpoint, whoever else took its name, and its row of the table."""
    from fastedit.models.hub.modeling import model_class

    row, kind = _row(path, revision)
    return model_class(row, kind if kind in row.model_types else None), row


def released_policy(path_or_id: str | os.PathLike[str], revision: str | None = None) -> str:
    """The policy that a checkpoint was released with; only its config is read.

    Raises TypeError, OSError and ValueError for what cannot be loaded either.
    """
    path = checked_place(path_or_id, revision)
    with named(path, "checkpoint", OSError):
        return _row(path, revision)[0].family.policy


def _row(path: str, revision: str | None) -> tuple[Checkpoints, Any]:
    """The row of a checkpoint, and its `model_type`."""
    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
    row, kind = row_of(config), config.get("model_type")
    if row is None:
        names = config.get("architectures")
        raise ValueError(
            f"{path}: its config.json has model_type={kind!r} and architectures={names!r}, which "
            f"name no kind of model that is known here; {known_kinds()}"
        )
    return row, kind


def _tokenizer(path: str, revision: str | None, config: Any, row: Checkpoints) -> Any:
    import transformers

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        return None
    options = {"revision": revision, "config": config, "trust_remote_code": False}
    reader: Any = transformers.AutoTokenizer
    if row.tokenizer and _names_code(path, revision):
        reader = getattr(transformers, row.tokenizer)
    try:
        return reader.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        warnings.warn(f"no tokenizer in {path} ({error}); prompts must be ids", stacklevel=4)
        return None


def _names_code(path: str, revision: str | None) -> bool:
    """Whether a tokenizer's files ask for code of their own, which is not run."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    return "auto_map" in get_tokenizer_config(path, revision=revision)


def _device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return _usable(device)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _usable(device: str | torch.device) -> torch.device:
    """Raises ValueError for a device that torch does not know, or does not have here."""
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        has = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({reason}); this torch has "
            f"cpu{f', {has}' if has else ' only'}; 'auto' takes the best of them"
        ) from error


def _check_dtype(dtype: str | torch.dtype) -> None:
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and known not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be auto, float32, bfloat16 or float16; got {dtype!r}")


def _adapter(name: str) -> Adapter:
    """The adapter called `name`, from a folder here or from the Hub, checked but not loaded."""
    with named(name, "adapter", OSError):
        folder = name if Path(name).is_dir() else _from_hub(name)
    return read_adapter(Path(folder), name)


def _from_hub(name: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return str(snapshot_download(name, allow_patterns=_ADAPTER_FILES))
    except HFValidationError as error:
        raise OSError(str(error)) from error
