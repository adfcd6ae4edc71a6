"""What heads share: a config in JSON and weights in safetensors, read strictly.

The two files have names of their own, so a head may lie alone in a folder or beside an adapter.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fastedit.models.checkpoint_files import (
    PICKLE_ADVICE,
    PICKLES,
    CheckpointError,
    check_dtypes,
    read_headers,
    read_json,
)

# What tells a base from another one of the same width, by the names of transformers' configs.
BASE = ("model_type", "num_hidden_layers", "vocab_size")


def base_of(config: Any) -> dict[str, Any]:
    """What a head remembers of the model that it was made for, from the model's config."""
    return {name: getattr(config, name) for name in BASE if getattr(config, name, None) is not None}


class Head(nn.Module):
    """A head with a config.

    name          of its files: `<name>.json` and `<name>.safetensors`
    config_class  a frozen dataclass with `hidden_size` and `base`, and `vocab_size` where it has
                  logits
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def is_in(cls, folder: str | os.PathLike[str]) -> bool:
        """Whether `folder` holds such a head, whole or not."""
        return (Path(folder) / f"{cls.name}.json").exists()

    def check_base(self, config: Any) -> None:
        """Raise ValueError where the head was made for another model than that of `config`.

        What either of them does not say is not compared.
        """
        sizes = (name for name in ("hidden_size", "vocab_size") if hasattr(self.config, name))
        made_for = {name: getattr(self.config, name) for name in sizes}
        made_for |= self.config.base or {}
        for key, value in made_for.items():
            found = getattr(config, key, value)
            if found != value:
                raise ValueError(
                    f"the {self._words()} was made for a model with {key}={value!r}, and this one "
                    f"has {key}={found!r}: take a head that was trained on it"
                )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write both files into `folder`, which is made where it is missing."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = {key: x.detach().contiguous() for key, x in self.state_dict().items()}
        save_file(weights, target / f"{self.name}.safetensors", metadata={"format": "pt"})
        values = {"head": self.name, **dataclasses.asdict(self.config)}
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        (target / f"{self.name}.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """The head in `folder`, in eval mode; dtype None: as stored.

        Raises FileNotFoundError where there is none, and CheckpointError (an OSError and a
        ValueError) for files that are damaged, incomplete or not those of this head.
        """
        place = Path(os.path.expanduser(os.fspath(folder)))
        head = cls(cls.read_config(place))
        weights = head._read_weights(place / f"{cls.name}.safetensors")
        head.load_state_dict(weights, assign=True)
        return head.to(device=device, dtype=dtype).eval()

    @classmethod
    def _words(cls) -> str:
        return cls.name.replace("_", " ")

    @classmethod
    def read_config(cls, folder: Path) -> Any:
        """The config of the head in `folder`; raises as `from_pretrained`."""
        file = folder / f"{cls.name}.json"
        if not folder.is_dir():
            raise FileNotFoundError(f"head {str(folder)!r} is not a folder: there is none")
        if not file.exists():
            raise FileNotFoundError(
                f"{folder} has no {file.name}, so it holds no {cls._words()}; its save_pretrained "
                "and training write one"
            )
        values = read_json(file)
        kind = values.pop("head", None)
        if kind != cls.name:
            raise CheckpointError(f"{file}: is of a head {kind!r}, not of a {cls._words()}")
        fields = {field.name: field for field in dataclasses.fields(cls.config_class)}
        unknown = [key for key in values if key not in fields]
        missing = [
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and name not in values
        ]
        if unknown or missing:
            what = f"does not know {unknown[0]!r}" if unknown else f"needs {missing[0]!r}"
            raise CheckpointError(
                f"{file}: a {cls._words()} {what}; its fields are {', '.join(fields)}"
            )
        try:
            return cls.config_class(**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: {error}") from error

    def _read_weights(self, file: Path) -> dict[str, torch.Tensor]:
        if not file.exists():
            pickled = sorted(p.name for p in file.parent.iterdir() if p.suffix in PICKLES)
            found = f", found {pickled[0]}: {PICKLE_ADVICE}" if pickled else "; copy it there"
            raise CheckpointError(f"{file.parent} has no {file.name} (safetensors only){found}")
        stored = read_headers([file])
        check_dtypes(stored, cast=False)
        wanted = {key: tuple(x.shape) for key, x in self.state_dict().items()}
        for key in wanted.keys() | stored.keys():
            has = stored[key].shape if key in stored else None
            if has != wanted.get(key):
                raise CheckpointError(
                    f"{file}: {key} is {_shape(has)}, and the config beside it makes it "
                    f"{_shape(wanted.get(key))}: the two are not of one head"
                )
        weights = load_file(file)
        for key, x in weights.items():
            if not x.isfinite().all():
                raise CheckpointError(
                    f"{file}: {key} has NaN or infinity; its training diverged: take an earlier one"
                )
        return weights


def whole(name: str, value: Any, least: int) -> int:
    """`value` as an integer; ValueError that names it where it is none, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    return value


def checked_base(base: Any) -> dict[str, Any] | None:
    if base is not None and not isinstance(base, Mapping):
        raise ValueError(f"base must be an object or null; got {base!r}")
    return None if base is None else dict(base)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
