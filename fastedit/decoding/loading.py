"""Checkpoints as they stand on disk or on the Hub: safetensors only, never remote code."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch

from fastedit.decoding.places import folder_or_id, named
from fastedit.models.checkpoint_files import check_folder

TINY = Path(__file__).parent.parent / "assets" / "tiny"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load(
    path_or_id: str,
    adapter: str | None,
    dtype: str | torch.dtype,
    device: str | torch.device,
    revision: str | None,
) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer or None); arguments as in `Decoder.from_pretrained`.

    Names, dtype and device are checked first: OSError and ValueError that say what is allowed.
    """
    path = str(TINY) if path_or_id == "tiny" else folder_or_id(path_or_id, "checkpoint")
    if Path(path).is_dir():
        check_folder(Path(path))
    if adapter is not None:
        adapter = folder_or_id(adapter, "adapter")
    _check_dtype(dtype)
    target = _device(device)
    # With accelerate, shards go straight to the device instead of through the host's memory.
    direct = target.type != "cpu" and importlib.util.find_spec("accelerate") is not None
    with named(path, "checkpoint", OSError):
        model: Any = _class(path, revision).from_pretrained(
            path,
            dtype=dtype,
            revision=revision,
            device_map={"": target} if direct else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    model = model.to(target)
    if adapter is not None:
        model = _merge(model, adapter)
    return model.eval(), _tokenizer(path, revision, model.config)


def _class(path: str, revision: str | None) -> Any:
    """The model class of a checkpoint: ours for LLaDA2.x, whoever else took its name."""
    from transformers import AutoModelForCausalLM, PreTrainedConfig

    from fastedit.models.llada2 import MODEL_TYPES, LLaDA2MoeModelLM

    config, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
    return LLaDA2MoeModelLM if config.get("model_type") in MODEL_TYPES else AutoModelForCausalLM


def _tokenizer(path: str, revision: str | None, config: Any) -> Any:
    from transformers import AutoTokenizer

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        return None
    try:
        options = {"revision": revision, "config": config, "trust_remote_code": False}
        return AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        warnings.warn(f"no tokenizer in {path} ({error}); prompts must be ids", stacklevel=4)
        return None


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


def _merge(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError("adapters need peft: pip install 'fastedit-dlm[train]'") from error
    if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").exists():
        raise ValueError(
            f"{adapter} has no adapter_model.safetensors; other formats can run code when loaded"
        )
    with named(adapter, "adapter", OSError, ValueError), warnings.catch_warnings():
        # peft asks the model for a name that transformers is about to drop.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
