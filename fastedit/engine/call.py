"""One call of the model: the names of its arguments, and which rows reach its head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


class ModelCall:
    """Calls a model on chosen rows of a batch.

    model: `model(input_ids=[B, Q], attention_mask=bool [B, 1, Q, T], position_ids=[B, Q],
    past_key_values=Cache or None, use_cache=bool)`, the cache as `cache=` where that is its name
    -> an object with `.logits` [B, Q, V].
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        forward = _parameters(model)
        self.cache_name = cache_argument(model)
        # A prefill needs no logits; transformers' models can leave most of them out.
        keeps = "logits_to_keep" in forward
        self.last_logits_only: dict[str, Any] = {"logits_to_keep": 1} if keeps else {}
        # The decision reads logits of any dtype as fp32: a copy in fp32 would cost three reads.
        self.options: dict[str, Any] = (
            {"upcast_logits": False} if "upcast_logits" in forward else {}
        )
        # What a config may switch on or off for all forwards, and a step has no use for.
        for name, plain in (("output_attentions", False), ("output_hidden_states", False)):
            if getattr(getattr(model, "config", None), name, plain) != plain:
                self.options[name] = plain
        # What a model may be told of a cache that lays keys by position; see `LLaDA2MoeModelLM`.
        self.told = [name for name in ("keys_by_position", "key_lengths") if name in forward]
        # Whether its attention reads keys where they are, and copies none for a row.
        self.in_place = "key_lengths" in self.told
        if getattr(getattr(model, "config", None), "return_dict", True) is False:
            self.options["return_dict"] = True

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        seen: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> Tensor:
        """Logits [B, Q, V].

        seen: where every query of a row sees the same keys: how many, and where they begin in the
        pool, int32 [B] each.
        """
        layout = {
            "keys_by_position": cache is not None,
            "key_lengths": seen and (*seen, cache.visible),
        }
        return self.model(
            **options,
            **self.options,
            **{name: layout[name] for name in self.told},
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None,
            **{self.cache_name: cache},
        ).logits

    def rows(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        wanted: Tensor,
        cache: Any = None,
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Logits [B, W, V] of the rows `wanted` [B, W] alone.

        Where the model has an output embedding, only these rows reach it.
        """
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        if head is None:
            return _chosen(self(ids, mask, positions, cache, seen), wanted)
        cut = []  # stays empty for a model that does not call its head as a module

        def only_wanted(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            cut.append(True)
            return _chosen(given[0], wanted), *given[1:]

        hook = head.register_forward_pre_hook(only_wanted)
        try:
            logits = self(ids, mask, positions, cache, seen)
        finally:
            hook.remove()
        return logits if cut else _chosen(logits, wanted)


def cache_argument(model: Any) -> str:
    """The name under which `model` takes its cache.

    transformers calls it `cache` from 5.24 on, and warns of the other name.
    """
    forward = _parameters(model)
    renamed = "cache" in forward and "past_key_values" not in forward
    return "cache" if renamed else "past_key_values"


def _chosen(rows: Tensor, wanted: Tensor) -> Tensor:
    return rows.gather(1, wanted[..., None].expand(-1, -1, rows.shape[-1]))


def _parameters(model: Any) -> Mapping[str, Any]:
    """What a call of `model` takes; the wrappers of peft and `torch.compile` pass on any of it."""
    inner = getattr(model, "_orig_mod", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return inspect.signature(getattr(inner, "forward", inner)).parameters
