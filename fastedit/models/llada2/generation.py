"""Generation of a LLaDA2.x model of transformers: by token editing, and greedily by default."""

from __future__ import annotations

import sys
from typing import Any

from transformers import GenerationConfig
from transformers.generation import GenerationMixin

from fastedit.models import generation


class EditingGenerationMixin(GenerationMixin):
    """`generate` as it is registered, and a generation config that never asks for sampling itself.

    A text-generation pipeline samples by default; what the model's config says goes before that.
    """

    def generate(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The released LLaDA2.1 `generate`, and transformers', told apart by their arguments.

        Arguments: `fastedit.integrations.styles`.
        """
        return generation.generate(self, *args, **kwargs)

    @property
    def generation_config(self) -> GenerationConfig:
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._filled: dict[str, Any] = {}
        if config is not None and config.do_sample is None:
            self._filled["do_sample"] = False
            if config.temperature is None:  # some pipelines (5.19) would fill in their own
                self._filled["temperature"] = 1.0
            config.update(**self._filled)
        self._generation_config = config

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the generation config as it was given."""
        config = self._generation_config
        filled = {k: v for k, v in self._filled.items() if getattr(config, k) == v}
        config.update(**dict.fromkeys(filled))
        try:
            super().save_pretrained(*args, **kwargs)  # type: ignore[misc]
        finally:
            config.update(**filled)

    def _prepare_generation_config(self, generation_config: Any, **kwargs: Any) -> Any:
        # Older pipelines ask here, when they are made, to put their own defaults above the model's.
        made = sys.modules.get("transformers.pipelines.text_generation")
        if made and generation_config is made.TextGenerationPipeline._default_generation_config:
            generation_config = GenerationConfig(max_new_tokens=generation_config.max_new_tokens)
        prepare: Any = super()._prepare_generation_config  # type: ignore[misc]
        return prepare(generation_config, **kwargs)
