"""Model classes made from transformers' causal ones: another mask, and the published names."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming, revert_weight_conversion

from fastedit.models.adapters.experts import adapted_modules
from fastedit.models.families import Checkpoints
from fastedit.models.masks import default_positions, open_empty_rows, resolve_mask

from .configuration import made_from
from .strict import Shapes, StrictLoading, compare

# A block that every position is in.
_EVERYTHING = sys.maxsize


class _AsPublished(GenerationConfig):
    """Saved as it was read: some releases of transformers refuse what some families publish."""

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is drawn by what it says."""


class DiffusionModel(StrictLoading):
    """Mixed into a causal model of transformers; its arguments are those of that model.

    attention_mask  bool [B, 1, Q, K] is what is seen. Without one, and with a padding mask [B, K],
                    it follows from the family: everything, or blocks of the config's `block_size`
                    and all before them. It is never causal
    """

    row: ClassVar[Checkpoints]
    adapted_modules = adapted_modules  # of adapters with a module per expert
    _supports_flash_attn = False  # it has no masks
    _supports_flex_attn = False  # it takes masks as functions

    def mask_and_positions(
        self, shape: torch.Size, mask: Tensor | None, positions: Tensor | None, cache: Any
    ) -> tuple[Tensor, Tensor]:
        """What the queries of a forward see, as the attention takes it, and their positions."""
        if mask is None or mask.ndim != 4 or mask.dtype != torch.bool or positions is None:
            cached = cache.get_seq_length() if cache is not None else 0
            if positions is None:
                positions = default_positions(mask, shape, cached, self.device)
            mask = resolve_mask(mask, positions, shape, cached, self.block_size)
            mask = open_empty_rows(mask)
        if self.config._attn_implementation == "eager":  # adds masks to scores
            mask = torch.zeros_like(mask, dtype=self.dtype).masked_fill_(
                ~mask, torch.finfo(self.dtype).min
            )
        return mask, positions

    @property
    def block_size(self) -> int:
        """Of masks that are not given; all positions are one block where all see all."""
        family = self.row.family
        if family.attention == "full":
            return _EVERYTHING
        given: Any = family.block_length
        return given or self.config.block_size

    @property
    def generation_config(self) -> GenerationConfig:
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._generation_config: GenerationConfig = copy.copy(config)
        self._generation_config.__class__ = _AsPublished

    def generate(self, *args: Any, custom_generate: Any = None, **kwargs: Any) -> Any:
        """Only with a `custom_generate`: transformers' own loops go from left to right."""
        if custom_generate is None:
            raise ValueError(
                f"{self.row.name} models do not generate from left to right: use "
                "fastedit.Decoder(model, tokenizer).generate"
            )
        made: Any = super()
        return made.generate(*args, custom_generate=custom_generate, **kwargs)

    @classmethod
    def register_conversions(cls) -> None:
        """Under the class's own name: a model type may be that of several families."""
        like = cls.row.weights_like
        found: list[Any] = [WeightRenaming(a, b) for a, b in cls.row.weights.items()]
        found += (get_checkpoint_conversion_mapping(like) or []) if like else []
        register_checkpoint_conversion_mapping(cls.__name__, found, overwrite=True)

    def published_shapes(self) -> Shapes:
        """Name and shape of every tensor of a checkpoint of this configuration."""
        self.register_conversions()
        empty = {name: x.to("meta") for name, x in self.state_dict().items()}
        loaded = self.__dict__.pop("_weight_conversions", None)
        try:
            published = revert_weight_conversion(self, empty)
        finally:
            if loaded is not None:
                self._weight_conversions = loaded
        return {name: tuple(x.shape) for name, x in published.items()}

    def check_tensors(self, found: Shapes) -> None:
        expected = self.published_shapes()
        if self.config.tie_word_embeddings:  # the head may be written down once more
            head = self.published_name("lm_head.weight")
            if head not in found:
                del expected[head]
        compare(found, expected, self.config.name_or_path)

    def native_name(self, name: str) -> str:
        """What transformers calls a tensor, or what is beside one, that the file calls `name`."""
        parts = self.row.weights
        if any(name.startswith(theirs) for theirs in parts if theirs[0] != "."):
            for theirs, ours in parts.items():
                name = name.replace(theirs, ours, 1)
        return name

    def published_name(self, name: str) -> str:
        """What the file calls a tensor that is renamed, and not put together from others."""
        for theirs, ours in reversed([*self.row.weights.items()]):
            name = name.replace(ours, theirs, 1)
        return name


def model_class(row: Checkpoints, kind: str | None = None) -> Any:
    """The class of the checkpoints of `row`; kind: their model type, where there are several."""
    if not isinstance(row.model, str):
        return row.model()
    return _made(row, kind or row.model_types[0])


@functools.cache
def _made(row: Checkpoints, kind: str) -> Any:
    native: Any = getattr(transformers, row.model)  # type: ignore[arg-type]
    own = {
        "__module__": __name__,
        "__doc__": DiffusionModel.__doc__,
        "row": row,
        "config_class": made_from(row, native.config_class, kind),
        "forward": _forward(native),
        # Looked for in the source of a class's module, and these are in that of the other one.
        "_can_set_attn_implementation": native._can_set_attn_implementation,
        "_can_set_experts_implementation": native._can_set_experts_implementation,
    }
    made: Any = type(row.architectures[0], (DiffusionModel, native), own)
    made.register_conversions()
    return made


def _forward(native: type[PreTrainedModel]) -> Callable[..., Any]:
    @functools.wraps(native.forward)  # callers look for the names of its arguments
    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *others: Any,
        **named: Any,
    ) -> Any:
        given = (*others, None, None)  # the cache comes next, then embeddings
        cache = named.get("past_key_values", named.get("cache", given[0]))
        tokens = named.get("inputs_embeds", given[1]) if input_ids is None else input_ids
        if tokens is not None:
            attention_mask, position_ids = self.mask_and_positions(
                tokens.shape[:2], attention_mask, position_ids, cache
            )
        return native.forward(self, input_ids, attention_mask, position_ids, *others, **named)

    return forward
