"""Loading that takes safetensors only, and accounts for every tensor before one is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from fastedit.models.checkpoint_files import (
    PICKLE_ADVICE,
    check_dtypes,
    check_folder,
    check_quantisation,
    read_headers,
)

ADAPTER_WEIGHTS = "adapter_model.safetensors"
Shapes = dict[str, tuple[int, ...]]


class StrictLoading(PreTrainedModel):
    """`from_pretrained` that takes safetensors only and checks every name and shape up front."""

    @classmethod
    def register_conversions(cls) -> None:
        """Have transformers convert the weights of this class, whoever else took its name."""

    def check_tensors(self, found: Shapes) -> None:
        """Raise ValueError unless `found` is what a checkpoint of this configuration holds."""
        raise NotImplementedError

    def second_head(self, found: Shapes) -> str | None:
        """The tensor that is a head for the next token beside what the config names."""
        return None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but a missing, unknown or misshapen tensor is a ValueError.

        Reads safetensors only: pickle checkpoints (.bin, .pt) are refused. So are quantised
        checkpoints and float64, and files that are not whole.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(f"fastedit reads safetensors only: {PICKLE_ADVICE}")
        name = pretrained_model_name_or_path
        if name is not None:
            folder = Path(name, kwargs.get("subfolder") or "")
            if folder.is_dir() and not kwargs.get("variant"):
                files = check_folder(folder)
                given = kwargs.get("dtype") or kwargs.get("torch_dtype") or "auto"
                check_dtypes(read_headers(files), cast=given != "auto")
            else:
                hub = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
                options = {key: kwargs[key] for key in hub if kwargs.get(key) is not None}
                check_quantisation(PreTrainedConfig.get_config_dict(name, **options)[0], name)
        if kwargs.get("subfolder", "") is None:
            del kwargs["subfolder"]
        cls.register_conversions()
        return super().from_pretrained(name, *args, use_safetensors=True, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, under the published names, or ours (`save_original_format=False`)."""
        self.register_conversions()
        # Left by loading, with no more than the conversions that the loaded form needed.
        self.__dict__.pop("_weight_conversions", None)
        super().save_pretrained(*args, **kwargs)

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, *args: Any, **kwargs: Any):  # type: ignore[override]
        if checkpoint_files and Path(checkpoint_files[0]).name == ADAPTER_WEIGHTS:
            # `load_adapter` of transformers comes here, and checks the names itself.
            return PreTrainedModel._load_pretrained_model(
                model, state_dict, checkpoint_files, *args, **kwargs
            )
        if state_dict is not None:
            found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
        else:
            stored = read_headers(checkpoint_files)
            check_dtypes(stored, cast=model.dtype != torch.float64)
            found = {name: tensor.shape for name, tensor in stored.items()}
        if model.dtype == torch.float64:
            raise ValueError(
                f"{model.config.name_or_path or 'the state_dict'}: float64 is the dtype asked for, "
                'in which nothing here computes: pass dtype="float32" or dtype="bfloat16"'
            )
        model.check_tensors(found)
        second = model.second_head(found)
        loaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, *args, **kwargs
        )
        if second is not None:
            if state_dict is None:
                with safe_open(stored[second].file, framework="pt") as tensors:
                    weight = tensors.get_tensor(second)
            else:
                weight = state_dict[second]
            model.take_second_head(second, weight)
            loaded[0].unexpected_keys.clear()  # which that one is to transformers
        return loaded


def compare(found: Mapping[str, Any], expected: Mapping[str, Any], name: str | None) -> None:
    """Raise ValueError that names what differs between the shapes found and those expected.

    name: what the tensors are of, for the message.
    """
    problems = [
        f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - found.keys())
    ]
    problems += [f"unknown: {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"wrong shape: {name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    if problems:
        shown = problems[:10] + [f"and {len(problems) - 10} more"] * (len(problems) > 10)
        raise ValueError(
            f"{name or 'state_dict'}: the tensors do not fit the configuration "
            f"({len(found)} tensors, {len(expected)} expected): {'; '.join(shown)}"
        )
