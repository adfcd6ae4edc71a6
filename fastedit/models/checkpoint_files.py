"""The files of a checkpoint, looked at before anything is loaded: what is there, and what it holds.

Every error names the file and what to do, in one line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_OTHERS = (".gguf", ".npz", ".h5", ".msgpack", ".onnx")
_PLAIN = {"F32", "F16", "BF16", "F64"}
# What else is read beside the weights; transformers passes over one that it cannot read.
SIDE_FILES = (
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja"),
)
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
# How the makers of quantised checkpoints name what stands beside the integers.
_MARKS = {
    "weight_scale_inv": "fp8 with block scales",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "absmax": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_packed": "compressed-tensors",
    "biases": "MLX",
}
_INSTEAD = (
    "fastedit loads weights in bf16, fp16 and fp32: take the checkpoint that it was made from, and "
    "quantise that after loading, with torchao"
)
PICKLE_ADVICE = (
    "a pickle can run code when it is loaded; load it where you trust it, and save it with "
    "model.save_pretrained(folder)"
)


class CheckpointError(OSError, ValueError):
    """A file of a checkpoint or adapter that cannot be used as it is."""


class Stored(NamedTuple):
    """A tensor as a safetensors header describes it."""

    file: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it: "F32", "BF16", ...


def check_folder(folder: Path) -> list[Path]:
    """The weights of a checkpoint; CheckpointError unless they are whole, plain safetensors.

    Raises FileNotFoundError where there is no config.json.
    """
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise FileNotFoundError(
                f"{folder} is an adapter (adapter_config.json), not a checkpoint: load the "
                "checkpoint that it was trained on, and pass this folder as adapter"
            )
        raise FileNotFoundError(f"{folder} has no config.json, so it is not a checkpoint")
    check_quantisation(read_json(folder / "config.json"), folder / "config.json")
    for name in SIDE_FILES:
        if (folder / name).exists():
            check_side_file(folder / name)
    if (folder / WEIGHTS).exists():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).exists():
        files = _indexed(folder)
    else:
        raise _no_weights(folder)
    for file in files:
        check_file(file)
    return files


def check_side_file(file: Path) -> None:
    """Raise CheckpointError for a file that is empty or stands for another; JSON must be JSON."""
    if file.suffix == ".json" and file.name != "tokenizer.json":  # that may be large
        read_json(file)
        return
    reason = _not_itself(file)
    if reason:
        raise CheckpointError(f"{file}: {reason}")


def check_quantisation(config: Mapping[str, Any], name: Path | str) -> None:
    """Raise CheckpointError where `config`, read from `name`, is of a quantised checkpoint."""
    for key in ("quantization_config", "quantization", "compression_config", "quant_config"):
        found = config.get(key)
        if found:
            method = found.get("quant_method") if isinstance(found, Mapping) else None
            method = method or ("MLX" if key == "quantization" else key)
            raise CheckpointError(f"{name}: a quantised checkpoint ({method}). {_INSTEAD}")


def check_file(file: Path | str) -> None:
    """Raise CheckpointError unless `file` is a whole safetensors file; only its header is read."""
    try:
        with safe_open(file, framework="np"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {_diagnosis(Path(file), error)}") from error


def read_headers(files: Iterable[Path | str]) -> dict[str, Stored]:
    """What is in safetensors `files`. Raises CheckpointError; a name must be in one."""
    found: dict[str, Stored] = {}
    for file in files:
        check_file(file)
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                if name in found:
                    raise CheckpointError(
                        f"tensor {name} is in more than one file: {found[name].file} and {file}"
                    )
                part = tensors.get_slice(name)
                found[name] = Stored(str(file), tuple(part.get_shape()), part.get_dtype())
    return found


def check_dtypes(found: Mapping[str, Stored], cast: bool) -> None:
    """Raise CheckpointError for quantised tensors, and for fp64 unless all are `cast`."""
    for name, stored in found.items():
        if stored.dtype not in _PLAIN:
            kinds = {kind for end, kind in _MARKS.items() if any(n.endswith(end) for n in found)}
            raise CheckpointError(
                f"{stored.file}: {name} is stored as {stored.dtype}, a quantised checkpoint"
                f"{f' ({min(kinds)})' if kinds else ''}. {_INSTEAD}"
            )
        if stored.dtype == "F64" and not cast:
            raise CheckpointError(
                f"{stored.file}: {name} is stored as float64, in which nothing here computes: pass "
                'dtype="float32" or dtype="bfloat16"'
            )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises CheckpointError for anything else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{file}: {_diagnosis(file, error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: must hold a JSON object, got {type(found).__name__}")
    return found


def _indexed(folder: Path) -> list[Path]:
    index = folder / INDEX
    content = read_json(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names or not isinstance(content.get("metadata"), dict):
        raise CheckpointError(f"{index}: has no weight_map or no metadata; download it again")
    outside = [str(name) for name in names.values() if Path(str(name)).name != name]
    if outside:
        raise CheckpointError(f"{index}: names files outside of its folder ({_some(outside)})")
    files = sorted(folder / str(name) for name in set(names.values()))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of its {len(files)} files are not in {folder} "
            f"({_some(missing)}); download them"
        )
    return files


def _no_weights(folder: Path) -> Exception:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    shards = [match for match in map(_SHARD.fullmatch, names) if match]
    if len(shards) == 1 and int(shards[0][2]) == 1:
        return CheckpointError(
            f"{folder} has {shards[0][0]} but no {INDEX}: rename it to {WEIGHTS}"
        )
    if shards:
        return CheckpointError(
            f"{folder} has {len(shards)} of {int(shards[0][2])} shards but no {INDEX}: download it"
        )
    other = [name for name in names if name.endswith(".safetensors")]
    if other:
        return CheckpointError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}, but {_some(other)}: give the weights "
            "one of those names"
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return CheckpointError(
            f"{folder}: weights must be .safetensors (safetensors only), found {_some(pickles)}: "
            f"{PICKLE_ADVICE}"
        )
    foreign = [name for name in names if name.endswith(_OTHERS)]
    found = f"; {_some(foreign)} is another format" if foreign else ""
    return CheckpointError(
        f"{folder} has no weights: weights must be .safetensors ({WEIGHTS}, or shards and {INDEX})"
        f"{found}"
    )


def _diagnosis(file: Path, error: Exception) -> str:
    """What is wrong with a file that could not be read, and what to do."""
    if not file.exists():
        return "there is no such file; download it"
    if not os.access(file, os.R_OK):
        return "cannot be read: no permission"
    found = _not_itself(file)
    if found:
        return found
    reason = " ".join(str(error).split())
    if file.suffix != ".safetensors":
        return f"is not JSON ({reason}); download it again"
    return f"is truncated or damaged ({file.stat().st_size:,} bytes; {reason}); download it again"


def _not_itself(file: Path) -> str | None:
    """What stands in place of a file that was not downloaded."""
    with file.open("rb") as opened:
        start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git-LFS pointer, not the file itself: run `git lfs pull` in its folder"
    if not start:
        return "is empty; download it again"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not the file itself; download it again"
    return None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
