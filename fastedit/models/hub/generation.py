"""Generation configs that are saved with every key that was read."""

from __future__ import annotations

import copy
from typing import Any

from transformers import GenerationConfig

_OURS = ("_published", "_read")


class PublishedGenerationConfig(GenerationConfig):
    """A generation_config.json of another family: keys that transformers does not know included.

    What is saved is the file as it was read, with those values that have changed since. Some
    releases of transformers refuse what some families publish, so nothing is validated.
    """

    _published: dict[str, Any] | None = None
    _read: dict[str, Any]

    @classmethod
    def of(cls, config: GenerationConfig) -> PublishedGenerationConfig:
        """A copy of `config` that is saved without a check."""
        made: Any = copy.copy(config)
        made.__class__ = cls
        return made

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; overrides among `kwargs` are changes to what was published."""
        published = copy.deepcopy(config_dict)
        # Of a file that says so, transformers drops the keys that it does not know.
        plain = {key: value for key, value in published.items() if key != "_from_model_config"}
        read = cls(**plain).to_dict()
        made = super().from_dict(plain, **kwargs)
        config: Any = made[0] if isinstance(made, tuple) else made
        config._published, config._read = published, read
        return made

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is drawn by what it says."""

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if key not in _OURS}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved; see the class."""
        if self._published is None:
            return super().to_diff_dict()
        values = self.to_dict().items()
        unread = object()
        changed = {k: v for k, v in values if k[0] != "_" and self._read.get(k, unread) != v}
        return {**self._published, **changed}
