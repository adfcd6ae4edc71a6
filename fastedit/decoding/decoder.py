"""`Decoder`: a model, a tokenizer and a configuration, ready to generate."""

from __future__ import annotations

import contextlib
import secrets
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastedit.decoding.config import DecodeConfig
from fastedit.decoding.engine import Engine
from fastedit.decoding.inputs import as_id_tensors, check_prompt
from fastedit.decoding.loading import load
from fastedit.decoding.request import Request
from fastedit.decoding.results import DecodeOutput, Event
from fastedit.decoding.streamers import attach_streamer
from fastedit.decoding.text import TextTracker
from fastedit.decoding.tokens import resolve_eos, resolve_mask, vocab_size


class Decoder:
    """Generates with a diffusion language model that drafts blocks of tokens and edits them.

    model      called as `model(input_ids=, attention_mask=, position_ids=, past_key_values=,
               use_cache=)`, shapes in `fastedit.decoding.forward.BlockForward`; returns `.logits`
    tokenizer  needed for texts, chats and stop strings; id tensors work without
    config     defaults of every call; `generate(..., name=value)` overrides single options
    """

    def __init__(
        self,
        model: Callable[..., Any],
        tokenizer: Any = None,
        config: DecodeConfig | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config = config or DecodeConfig()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        config: DecodeConfig | None = None,
        adapter: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
    ) -> Decoder:
        """Load a local folder, a Hub id, or "tiny" (the checkpoint in the package, no network).

        adapter: a peft LoRA folder or Hub id, merged into the weights. dtype "auto": as stored.
        device "auto": an accelerator where there is one. Safetensors only; no remote code runs.
        """
        model, tokenizer = load(path_or_id, adapter, dtype, device, revision)
        return cls(model, tokenizer, config)

    def generate(
        self,
        prompts: Any,
        attention_mask: Tensor | None = None,
        streamer: Any = None,
        *,
        allow_mask_in_prompt: bool = False,
        **overrides: Any,
    ) -> DecodeOutput:
        """Decode one prompt or many; results come in the order of the prompts.

        prompts        text, texts, one chat, chats, ids [P] or [B, P], or a list of ids
        attention_mask [B, P] for padded ids, padding on either side
        streamer       a transformers streamer; one prompt at a time. It gets the prompt, then
                       committed ids per block; `put_draft`, where it has one, gets every step
        allow_mask_in_prompt  keep a literal mask id of a prompt, protected, instead of refusing it
        overrides      options of `DecodeConfig` for this call

        Raises TypeError and ValueError for bad input before any model call. A request with bad
        logits fails alone: its error is in `errors`, or raised when it was the only one.
        """
        requests, engine = self._prepare(prompts, attention_mask, overrides, allow_mask_in_prompt)
        if streamer is not None:
            attach_streamer(streamer, requests)
        try:
            with self._evaluating():
                for _ in engine.run():
                    pass
        finally:
            if streamer is not None:
                streamer.end()
        has_text = self.tokenizer is not None
        out = DecodeOutput(
            sequences=[torch.tensor(r.generated, dtype=torch.int64) for r in requests],
            texts=[r.text.text for r in requests if r.text] if has_text else None,
            stats=[request.stats for request in requests],
            errors=[request.error for request in requests],
        )
        if len(requests) == 1 and requests[0].error is not None:
            requests[0].error.output = out
            raise requests[0].error
        return out

    def stream(self, prompt: Any, drafts: bool = False, **overrides: Any) -> Iterator[Event]:
        """Decode one prompt and yield events as they happen; see `Event`.

        The texts of the "commit" events joined are exactly what `generate` returns. With `drafts`
        a "draft" event follows every forward.
        """
        requests, engine = self._prepare(prompt, None, overrides)
        if len(requests) != 1:
            raise ValueError(f"stream takes one prompt, got {len(requests)}; use generate")
        events = deque[Event]()

        def event(kind: str, request: Request, text: str, ids: list[int]) -> None:
            block = request.start // request.block_length
            events.append(Event(kind, text, ids, block, engine.step - request.entered))

        def on_block(request: Request, ids: list[int]) -> None:
            text = request.text.take(final=request.finished) if request.text else ""
            event("commit", request, text, ids)

        def on_draft(request: Request, ids: Tensor, logits: Tensor) -> None:
            if not request.committed:
                draft = ids[request.head :].tolist()
                event("draft", request, request.text.decode(draft) if request.text else "", draft)

        requests[0].on_block = on_block
        requests[0].on_draft = on_draft if drafts else None
        return self._events(engine, requests[0], events)

    def _events(self, engine: Engine, request: Request, events: deque[Event]) -> Iterator[Event]:
        with self._evaluating():
            for _ in engine.run():
                while events:
                    yield events.popleft()
        if request.error is not None:
            raise request.error
        yield Event("end", block=request.start // request.block_length, stats=request.stats)

    def _prepare(
        self,
        prompts: Any,
        attention_mask: Tensor | None,
        overrides: dict[str, Any],
        allow_mask: bool = False,
    ) -> tuple[list[Request], Engine]:
        config = self.config.replace(**overrides)
        mask = resolve_mask(config, self.model, self.tokenizer)
        eos = resolve_eos(config, self.model, self.tokenizer)
        if mask in eos:
            raise ValueError(f"id {mask} is both the mask token and an EOS: set eos_token_id")
        if config.temperature > 0.0:
            warnings.warn(
                "temperature > 0 draws anew at every forward, so blocks keep changing until "
                "max_post_steps",
                stacklevel=3,
            )
        rows = as_id_tensors(prompts, attention_mask, self.tokenizer, mask)
        for index, ids in enumerate(rows):
            check_prompt(
                ids,
                index,
                mask_token_id=mask,
                vocab_size=vocab_size(self.model),
                max_positions=getattr(
                    getattr(self.model, "config", None), "max_position_embeddings", None
                ),
                max_new_tokens=config.max_new_tokens,
                allow_mask=allow_mask,
            )
        seeds = _seeds(config.seed, len(rows))
        stops = [config.stop] if isinstance(config.stop, str) else config.stop or []
        if stops and self.tokenizer is None:
            raise ValueError("stop texts need a tokenizer; use eos_token_id for ids")
        requests = [
            Request(
                index=index,
                prompt=ids,
                config=config,
                seed=seed,
                eos=eos,
                text=TextTracker(self.tokenizer, stops) if self.tokenizer is not None else None,
            )
            for index, (ids, seed) in enumerate(zip(rows, seeds, strict=True))
        ]
        return requests, Engine(self.model, requests, mask, self.device)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; the CPU for a model without any."""
        parameters = getattr(self.model, "parameters", None)
        first = next(parameters(), None) if parameters else None
        return first.device if first is not None else torch.device("cpu")

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout off while decoding; a model in training goes back to it."""
        training = getattr(self.model, "training", False)
        if training:
            self.model.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if training:
                self.model.train()  # type: ignore[attr-defined]


def _seeds(seed: int | list[int] | None, count: int) -> list[int]:
    if seed is None:
        return [secrets.randbits(63) for _ in range(count)]
    if isinstance(seed, int):
        return [seed] * count
    if len(seed) != count:
        raise ValueError(f"seed has {len(seed)} entries for {count} prompts: give one each")
    return list(seed)
