"""One call of the model: the names of its arguments, and which of its rows and states are kept."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastedit.heads import CorrectionHead
from fastedit.models.families import NEXT_LOGITS


class Forward(NamedTuple):
    """logits [B, Q or W, V]; hidden [B, Q, d], the states that a head reads, where there is one;
    following [B, Q or W, V], logits of the head for the next token, where they were asked for."""

    logits: Tensor
    hidden: Tensor | None
    following: Tensor | None = None


class ModelCall:
    """Calls a model on chosen rows of a batch, and keeps what a head reads of its forward.

    model: `model(input_ids=[B, Q], attention_mask=bool [B, 1, Q, T], position_ids=[B, Q],
    past_key_values=Cache or None, use_cache=bool)`, the cache as `cache=` where that is its name
    -> an object with `.logits` [B, Q, V]. next_head: of the last hidden states; without one, the
    model gives its `.next_logits` [B, Q, V] itself.

    Raises ValueError for a model whose hidden states the head cannot have.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        head: CorrectionHead | None = None,
        next_head: nn.Module | None = None,
    ) -> None:
        self.model, self.head, self.next_head = model, head, next_head
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
        # Whether texts of any lengths may stand end to end in one row; see `DiffusionModel`.
        # Under `torch.compile` every list of lengths would be compiled anew.
        compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None)
        packs = None if compiled else getattr(_unwrapped(model), "packs_texts", None)
        self.packs: Callable[[], bool] = packs or (lambda: False)
        # Whether its attention reads keys where they are, and copies none for a row.
        self.in_place = "key_lengths" in self.told
        if getattr(getattr(model, "config", None), "return_dict", True) is False:
            self.options["return_dict"] = True
        # The layer whose input the head reads, where the model does not return it when asked to.
        self.listened: nn.Module | None = None
        if head is not None:
            layers = layers_of(model)
            layer = head.config.input_of(len(layers))
            if "hidden_layer" in forward:
                self.options["hidden_layer"] = layer
            else:
                self.listened = layers[layer]

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Any,
        seen: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> Forward:
        """Logits [B, Q, V], and hidden states for the head.

        seen: where every query of a row sees the same keys: how many, and where they begin in the
        pool, int32 [B] each.
        """
        layout = {
            "keys_by_position": cache is not None,
            "key_lengths": seen and (*seen, cache.visible),
        }
        with self._listening() as heard:
            out = self.model(
                **options,
                **self.options,
                **{name: layout[name] for name in self.told},
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=cache is not None,
                **{self.cache_name: cache},
            )
        following = getattr(out, NEXT_LOGITS, None)
        if self.head is None:
            return Forward(out.logits, None, following)
        hidden = heard if self.listened is not None else out.hidden_states
        if not hidden:
            raise RuntimeError("the model did not call the layer whose input its head reads")
        return Forward(out.logits, hidden[0], following)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[list[Tensor]]:
        """The input of the layer that is listened to, in a list, once the model was called."""
        heard: list[Tensor] = []
        if self.listened is None:
            yield heard
            return

        def hear(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            heard.append(args[0] if args else named["hidden_states"])

        hook = self.listened.register_forward_pre_hook(hear, with_kwargs=True)
        try:
            yield heard
        finally:
            hook.remove()

    def rows(
        self,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        wanted: Tensor,
        cache: Any = None,
        seen: tuple[Tensor, Tensor] | None = None,
        following: bool = False,
        **options: Any,
    ) -> Forward:
        """Logits [B, W, V] of the rows `wanted` [B, W] alone, and hidden states of all rows.

        Where the model has an output embedding, only these rows reach it. following: whether the
        head for the next token is called, too; a model gives what it has of its own in any case.
        options: of the model, such as `text_lengths` where it `packs`.
        """
        output = getattr(self.model, "get_output_embeddings", lambda: None)()
        if output is None:
            out = self(ids, mask, positions, cache, seen, **options)
            behind = None if out.following is None else chosen(out.following, wanted)
            return Forward(chosen(out.logits, wanted), out.hidden, behind)
        cut: list[Tensor] = []  # stays empty for a model that does not call its head as a module

        def only_wanted(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            cut.append(chosen(given[0], wanted))
            return cut[0], *given[1:]

        hook = output.register_forward_pre_hook(only_wanted)
        try:
            logits, hidden, behind = self(ids, mask, positions, cache, seen, **options)
        finally:
            hook.remove()
        if behind is not None:
            behind = chosen(behind, wanted)
        if following and self.next_head is not None:
            if not cut:
                raise RuntimeError("the model did not call its output embedding as a module")
            behind = self.next_head(cut[0])
        return Forward(logits if cut else chosen(logits, wanted), hidden, behind)


def cache_argument(model: Any) -> str:
    """The name under which `model` takes its cache.

    transformers calls it `cache` from 5.24 on, and warns of the other name.
    """
    forward = _parameters(model)
    renamed = "cache" in forward and "past_key_values" not in forward
    return "cache" if renamed else "past_key_values"


def layers_of(model: Any) -> nn.ModuleList:
    """The blocks of a transformer, wrapped or not: its outermost list of as many modules as its
    config has layers. Raises ValueError where there is none."""
    inner = _unwrapped(model)
    count = getattr(getattr(inner, "config", None), "num_hidden_layers", None)
    for module in inner.modules() if isinstance(inner, nn.Module) else ():
        if isinstance(module, nn.ModuleList) and count in (None, len(module)):
            return module
    raise ValueError(
        f"a head reads hidden states, and {type(inner).__name__} has no nn.ModuleList of its "
        "layers: give a model that has one, or leave the head out"
    )


def chosen(rows: Tensor, wanted: Tensor) -> Tensor:
    """Of rows [B, Q, d], those numbered `wanted` [B, W]."""
    return rows.gather(1, wanted[..., None].expand(-1, -1, rows.shape[-1]))


def _parameters(model: Any) -> Mapping[str, Any]:
    """What a call of `model` takes; the wrappers of peft and `torch.compile` pass on any of it."""
    inner = _unwrapped(model)
    return inspect.signature(getattr(inner, "forward", inner)).parameters


def _unwrapped(model: Any) -> Any:
    inner = getattr(model, "_orig_mod", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
