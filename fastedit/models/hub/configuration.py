"""Configs that are read under the published keys, and saved as they were published."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fastedit.models import packed
from fastedit.models.families import Checkpoints

from .by_row import ByRow

# Asks for a kernel of the released training code; a caller asks for another one when loading.
_OF_TRAINING = ("attn_implementation",)
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OURS = ("_published", "_read")


class PublishedConfig(PreTrainedConfig):
    """Mixed into a config class of transformers: reads and writes a config.json of another family.

    A value is read and set by either name, transformers' or the published one. What is saved is the
    config.json as it was read, key for key, with those values that have changed since.

    Raises ValueError for a value that the model class does not compute with, naming the key.
    """

    row: ClassVar[Checkpoints]
    # While texts are packed, the model's layers look up the attention that keeps them apart.
    _attn_implementation = property(
        packed.implementation,
        PreTrainedConfig._attn_implementation.fset,  # type: ignore[attr-defined]
    )

    def __init__(self, **given: Any) -> None:
        _check(self.row, given)
        given = copy.deepcopy(given)  # transformers writes into what it is given
        names, implied = self.row.keys, self.row.implied
        # A null is a key that is not given; but transformers has defaults for these.
        native: dict[str, Any] = dict.fromkeys(_IDS)
        if "num_key_value_heads" in given:  # as many as there are of queries
            native["num_key_value_heads"] = None
        said = {key: value for key, value in given.items() if value is not None}
        native |= {key: value for key, value in said.items() if key not in names}
        native |= {names[key]: value for key, value in said.items() if key in names}
        super().__init__(**(copy.deepcopy(native) | (implied(given) if implied else {})))
        self._published = given
        self._read = self._values()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; overrides among `kwargs` are changes to what was published."""
        # Older releases of transformers put where a file came from beside what is in it.
        published = copy.deepcopy(config_dict)
        published.pop("_commit_hash", None)
        plain = {key: value for key, value in published.items() if key not in _OF_TRAINING}
        try:
            before = cls(**plain)
            made = super().from_dict(plain, **kwargs)
        except (StrictDataclassError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"this config cannot be read: {' '.join(str(error).split())}"
            ) from error
        config = made[0] if isinstance(made, tuple) else made
        config._published, config._read = published, before._read
        return made

    def _values(self) -> dict[str, Any]:
        found = super().to_dict()
        return {key: value for key, value in found.items() if key not in _OURS}

    def to_dict(self) -> dict[str, Any]:
        return self._values()

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved; see the class."""
        names = {native: key for key, native in self.row.keys.items() if key in self._published}
        if "torch_dtype" in self._published:
            names["dtype"] = "torch_dtype"
        changed = {
            names.get(key, key): value
            for key, value in self._values().items()
            if key[0] != "_" and (key not in self._read or self._read[key] != value)
        }
        return {"model_type": self.model_type, **self._published, **changed}


def made_from(row: Checkpoints, native: Any, kind: str) -> Any:
    """The config class of `row` on top of transformers' class `native`, for a `model_type`."""
    own = {
        "__module__": __name__,
        "__doc__": PublishedConfig.__doc__,
        "__init__": PublishedConfig.__init__,  # a class without one is given one of its fields
        "row": row,
        "model_type": kind,
        "attribute_map": {**native.attribute_map, **row.keys},
    }
    return ByRow(f"{row.architectures[0]}Config", (PublishedConfig, native), own)


def _check(row: Checkpoints, given: Mapping[str, Any]) -> None:
    for key, allowed in row.supported.items():
        value = given.get(key)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if any(one not in allowed for one in values):
            words = " or ".join(map(repr, allowed)) or "null"
            raise ValueError(
                f"{key}={value!r} is not supported: {row.name} checkpoints are computed with "
                f"{key}={words}"
            )
    for key, value in given.items():
        name, known = row.keys.get(key, key), None
        if name == "hidden_act" and value is not None and value not in ACT2FN:
            known = ", ".join(ACT2FN)
        if name in ("rope_scaling", "rope_parameters") and isinstance(value, Mapping):
            kind = value.get("rope_type", value.get("type", "default"))
            if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
                known = f"of type default, {', '.join(ROPE_INIT_FUNCTIONS)}"
        wrong_id = value is not None and (type(value) is not int or value < 0)
        if name == "mask_token_id" and wrong_id:
            known = "an id, or null"
        if known:
            raise ValueError(f"{key}={value!r} is not known: it must be {known}")
