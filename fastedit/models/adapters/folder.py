"""An adapter as it lies in a folder: what is there, and what is refused before a model loads."""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from fastedit import extras
from fastedit.models.checkpoint_files import PICKLE_ADVICE, PICKLES, read_headers, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Inference with these depends on the input or on several adapters: peft has no merge of them, and
# some of its classes only say so when asked for one.
_UNMERGEABLE = ("ADAPTION_PROMPT", "LILY", "PEANUT", "POLY", "SHADOW", "XLORA")
_NO_MERGE = {
    "alora_invocation_tokens": "an activated LoRA changes only the tokens after its invocation",
    "arrow_config": "Arrow mixes several adapters for every token",
    "layer_replication": "it stacks copies of layers, which makes another model",
    "lora_bias": "it needs biases, which the linear layers here do not have",
    "megatron_config": "its layers are Megatron's",
    "use_qalora": "its layers are GPTQ's",
}


@dataclass(frozen=True)
class Adapter:
    """A folder with one adapter that can be merged."""

    name: str  # as the user calls it
    folder: Path
    config: Any  # peft.PeftConfig

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the file, on the CPU. Raises ValueError where one is not finite."""
        tensors = load_file(self.folder / WEIGHTS)
        broken = [
            name for name, x in tensors.items() if x.is_floating_point() and not x.isfinite().all()
        ]
        if broken:
            raise ValueError(
                f"adapter {self.name!r} has NaN or infinity in {shown(broken)}; its training "
                "diverged: take an earlier checkpoint of it"
            )
        return tensors


def shown(names: list[str], most: int = 6) -> str:
    """`names` for a message of one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_adapter(folder: Path, name: str) -> Adapter:
    """The adapter in `folder`; `name` is what messages call it.

    Raises ImportError without peft; OSError and ValueError for files that are missing, damaged or
    pickled, and for kinds of adapters that do not become part of the weights.
    """
    extras.require("peft", "train", "adapters need")
    _check_files(folder, name)
    return Adapter(name, folder, _config(folder / CONFIG, name))


def _check_files(folder: Path, name: str) -> None:
    inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if not (folder / CONFIG).exists():
        if inner:
            raise ValueError(
                f"adapter {name!r} is a folder of several adapters: {shown(inner)}; name one of "
                f"them, such as {folder / inner[0]}"
            )
        checkpoint = (folder / "config.json").exists()
        reason = "it is a whole checkpoint: load it without an adapter" if checkpoint else ""
        raise FileNotFoundError(
            f"adapter {name!r} has no {CONFIG}; "
            + (reason or "peft's save_pretrained writes one beside the weights")
        )
    # The Trainer leaves the states of a run below its result; those are not meant.
    others = [other for other in inner if not other.startswith("checkpoint-")]
    if others:
        raise ValueError(
            f"adapter {name!r} holds several adapters: its own, and in subfolders "
            f"{shown(others)}; one is merged: name a subfolder, such as {folder / others[0]}, or "
            f"move the folder's own {CONFIG} and {WEIGHTS} to a place of their own"
        )
    file = folder / WEIGHTS
    if not file.exists():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        found = f"found {shown(pickled)}: {PICKLE_ADVICE}" if pickled else "found none"
        raise ValueError(f"adapter {name!r} has no {WEIGHTS}: safetensors only, {found}")
    if not read_headers([file]):
        raise ValueError(f"{file} holds no tensors; save the adapter again")


def _config(file: Path, name: str) -> Any:
    """The config as peft's class for its type. Raises ValueError for a type or option refused."""
    values = read_json(file)
    if not isinstance(values.get("peft_type"), str):
        raise ValueError(f"{file} names no peft_type; peft's save_pretrained writes one")
    config_class = _config_class(values["peft_type"], name)
    for option, reason in _NO_MERGE.items():
        if values.get(option):
            raise ValueError(
                f"adapter {name!r} has {option}={values[option]!r} and cannot be merged: {reason}"
            )
    for option, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"adapter {name!r} has {option}={value}, which is no finite number")
    known = inspect.signature(config_class).parameters
    _check_unknown({k: v for k, v in values.items() if k not in known}, name)
    try:
        config = config_class(**{key: value for key, value in values.items() if key in known})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: peft refuses these options ({error})") from error
    config.inference_mode = True
    return config


def _config_class(kind: str, name: str) -> Any:
    """peft's class of configs of this type. Raises ValueError where it cannot be merged."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    configs = {
        getattr(key, "value", key): made for key, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    tuners = {getattr(key, "value", key): made for key, made in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    if kind not in configs:
        raise ValueError(
            f"adapter {name!r} is of type {kind}, which peft {peft.__version__} does not know: "
            "upgrade peft"
        )
    if kind in _UNMERGEABLE or not hasattr(tuners.get(kind), "merge_and_unload"):
        raise ValueError(
            f"adapter {name!r} is of type {kind}, which does not become part of the weights, so "
            "it cannot be merged; train one that does, such as LORA"
        )
    return configs[kind]


def _check_unknown(unknown: dict[str, Any], name: str) -> None:
    """Options of a newer peft: an error where they switch something on, a warning where not."""
    import peft

    on = [
        key for key, value in unknown.items() if value is True or (value and not _is_plain(value))
    ]
    remedy = f"peft {peft.__version__} does not know them: upgrade peft"
    if on:
        raise ValueError(f"adapter {name!r} uses {shown(on)}; {remedy}")
    given = [f"{key}={value!r}" for key, value in unknown.items() if value]
    if given:
        warnings.warn(f"adapter {name!r} has {shown(given)}; {remedy}", stacklevel=2)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))
