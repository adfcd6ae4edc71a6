"""Model classes made from transformers' causal ones: another mask, and the published names."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming, revert_weight_conversion

from fastedit.models import packed
from fastedit.models.adapters.experts import adapted_modules
from fastedit.models.families import NEXT_HEAD, Checkpoints, block_length
from fastedit.models.llada2.arguments import check_labels
from fastedit.models.masks import mask_and_positions, open_empty_rows

from .by_row import ByRow
from .configuration import made_from
from .generation import PublishedGenerationConfig
from .strict import Shapes, StrictLoading, compare

# A block that every position is in.
_EVERYTHING = sys.maxsize


class DiffusionModel(StrictLoading):
    """Mixed into a causal model of transformers; its arguments are those of that model.

    attention_mask  bool [B, 1, Q, K] is what is seen. Without one, and with a padding mask [B, K],
                    it follows from the family: everything, or its blocks and all before them. It
                    is never causal, nor is that of the trunk alone
    position_ids    where they begin again in a row, so does a document, which sees only itself;
                    not so beside a 4-D mask or a cache
    labels          int64 [B, Q], -100 = none: of position i, whichever row predicts it
    text_lengths    integers: the row of `input_ids` [1, Q] is texts of these lengths, end to end,
                    of which each sees all of itself; `packs_texts` says whether they may be given.
                    With full attention, `position_ids`, and neither a mask nor a cache
    """

    row: ClassVar[Checkpoints]
    adapted_modules = adapted_modules  # of adapters with a module per expert
    _supports_flash_attn = False  # it has no masks
    _supports_flex_attn = False  # it takes masks as functions

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.loss_type = "ForMaskedLM"  # transformers' name of a cross entropy without a shift
        self.base_model.register_forward_pre_hook(_see, with_kwargs=True)
        if self.row.next_head and getattr(config, NEXT_HEAD, False):
            self.next_token_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def packs_texts(self) -> bool:
        """Whether this model, as it is now, takes `text_lengths`."""
        full = self.row.family.attention == "full"
        return full and packed.serves(self.device, self.dtype, self.config._attn_implementation)

    @property
    def generation_config(self) -> GenerationConfig:
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._generation_config = PublishedGenerationConfig.of(config)

    def adjust_generation_fn(
        self, generation_config: Any, from_auto: Any, from_pipeline: Any, name: Any, **kwargs: Any
    ) -> None:
        """As in transformers, but a file is read with the keys that are unknown there."""
        made: Any = super()
        made.adjust_generation_fn(generation_config, from_auto, from_pipeline, name, **kwargs)
        if generation_config is None and name is not None:
            del kwargs["trust_remote_code"]
            with contextlib.suppress(OSError):  # there is none
                found = PublishedGenerationConfig.from_pretrained(name, **kwargs)
                self.generation_config = found

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
        second = self.second_head(found, expected)
        compare({n: x for n, x in found.items() if n != second}, expected, self.config.name_or_path)

    def second_head(self, found: Shapes, expected: Shapes | None = None) -> str | None:
        """The tensor of a file that is a head for the next token which the config does not name."""
        if not self.row.next_head or hasattr(self, NEXT_HEAD):
            return None
        unknown = found.keys() - (expected or self.published_shapes()).keys()
        size = tuple(self.get_output_embeddings().weight.shape)
        alike = [name for name in unknown if found[name] == size]
        return alike[0] if len(alike) == 1 else None

    def take_second_head(self, name: str, weight: torch.Tensor) -> None:
        """Make `weight`, which a file calls `name`, the head for the next token."""
        output = self.get_output_embeddings().weight
        vocab, hidden = weight.shape
        self.next_token_head = nn.Linear(hidden, vocab, bias=False, device="meta")
        self.next_token_head.weight = nn.Parameter(weight.to(output.device, output.dtype))
        self.next_token_head._is_hf_initialized = True  # type: ignore[assignment]
        self.config.next_token_head = True

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
    made: Any = ByRow(row.architectures[0], (DiffusionModel, native), own)
    made.register_conversions()
    return made


def _forward(native: type[PreTrainedModel]) -> Callable[..., Any]:
    @functools.wraps(native.forward)  # callers look for the names of its arguments
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = _by_name(native, (self, *args), kwargs)
        labels = given.get("labels")
        if labels is not None:
            inputs = given.get("input_ids")
            check_labels(labels, given.get("inputs_embeds") if inputs is None else inputs)
            if self.row.family.shift:  # the row before predicts it
                labels = F.pad(labels, (0, 1), value=-100)[:, 1:]
            keep = given.get("logits_to_keep", 0)
            if isinstance(keep, int):
                keep = slice(-keep, None)
            given["labels"] = labels[:, keep].contiguous()
        del given["self"]  # transformers 5.24 wants it by position
        lengths = given.pop("text_lengths", None)
        if lengths is None:
            return native.forward(self, **given)
        given["attention_mask"] = _unread(self, given, lengths)
        with packed.packing(lengths):
            return native.forward(self, **given)

    return forward


def _unread(model: Any, given: dict[str, Any], lengths: Sequence[int]) -> torch.Tensor:
    """A mask of the shape that transformers passes on; refuses what is not for packed texts."""
    tokens = given["input_ids"]
    if not model.packs_texts():
        raise ValueError(
            f"text_lengths: a {model.row.name} model in {model.dtype} on {model.device}, with "
            f"{model.config._attn_implementation!r} attention, packs no texts: pad them, a row each"
        )
    if any(given.get(name) is not None for name in ("attention_mask", "past_key_values", "cache")):
        raise ValueError("text_lengths come without an attention_mask and without a cache")
    if len(tokens) != 1 or sum(lengths) != tokens.shape[1] or given.get("position_ids") is None:
        raise ValueError(
            f"text_lengths {list(lengths)} are of one row of {sum(lengths)} tokens with "
            f"position_ids; got input_ids {list(tokens.shape)}"
        )
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tokens.device).expand(
        -1, -1, tokens.shape[1], tokens.shape[1]
    )


def _by_name(kind: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `kind.forward`, with its model first, all of them by name."""
    names = _names(kind)
    return dict(zip(names, args, strict=False)) | kwargs


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)


def _see(trunk: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A forward's arguments with the mask of its family, as the attention takes it."""
    given = _by_name(type(trunk), (trunk, *args), kwargs)
    del given["self"]
    tokens = given.get("input_ids")
    if tokens is None:
        tokens = given.get("inputs_embeds")
    if tokens is None:
        return args, kwargs  # refused by the model itself
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is None or mask.ndim != 4 or mask.dtype != torch.bool or positions is None:
        cache = given.get("past_key_values", given.get("cache"))
        cached = cache.get_seq_length() if cache is not None else 0
        shape = tokens.shape[:2]
        mask, positions = mask_and_positions(
            mask, positions, tokens, cached, _block_size(trunk.config)
        )
        if mask is None:  # every query sees every key; transformers' None is causal
            keys = cached + shape[1]
            mask = torch.ones(1, 1, shape[1], keys, dtype=torch.bool, device=tokens.device)
        mask = open_empty_rows(mask)
    if trunk.config._attn_implementation == "eager":  # adds masks to scores
        mask = torch.zeros_like(mask, dtype=trunk.dtype).masked_fill_(
            ~mask, torch.finfo(trunk.dtype).min
        )
    return (), given | {"attention_mask": mask, "position_ids": positions}


def _block_size(config: Any) -> int:
    """Of masks that are not given; all positions are one block where all see all."""
    family = config.row.family
    length: Any = _EVERYTHING if family.attention == "full" else block_length(family, config)
    return length
