"""`Decoder`: a model, a tokenizer and a configuration, ready to generate."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastedit.chats.messages import ChatOptions
from fastedit.config import DecodeConfig
from fastedit.engine.engine import Engine
from fastedit.engine.memory import capacity
from fastedit.engine.prepare import as_requests, one_per_prompt
from fastedit.engine.request import Request
from fastedit.models.families import Family, family_of
from fastedit.models.load import load
from fastedit.models.threads import Threads, checked, number_of
from fastedit.prompts.inputs import one_by_one
from fastedit.prompts.streamers import attach_streamer
from fastedit.results import (
    DecodeMemoryError,
    DecodeOutput,
    Event,
    RequestError,
    Result,
)


class Decoder:
    """Generates with a diffusion language model that drafts blocks of tokens and edits them.

    model      called as `model(input_ids=, attention_mask=, position_ids=, past_key_values=,
               use_cache=)`, shapes in `fastedit.engine.call.ModelCall`; returns `.logits`
    tokenizer  needed for texts, chats and stop strings; id tensors work without
    config     defaults of every call; `generate(..., name=value)` overrides single options
    family     how the model reads its canvas; None: what the model is known as
    threads    of torch's operations on a CPU while it decodes: "auto" takes one for a small model,
               else as many as torch is set to use and the process has cores; None: as torch is set
    """

    def __init__(
        self,
        model: Callable[..., Any],
        tokenizer: Any = None,
        config: DecodeConfig | None = None,
        family: Family | None = None,
        *,
        threads: Threads = "auto",
    ) -> None:
        self.threads = checked(threads)
        self.family = family or family_of(model)
        self.model, self.tokenizer = model, tokenizer
        self.config = config or DecodeConfig()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        config: DecodeConfig | None = None,
        adapter: str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        *,
        threads: Threads = "auto",
    ) -> Decoder:
        """Load a local folder, a Hub id, or "tiny" (the checkpoint in the package, no network).

        adapter: a peft folder or Hub id, merged into the weights. dtype "auto": as stored.
        device "auto": an accelerator where there is one. Safetensors only; no remote code runs.
        """
        checked(threads)
        model, tokenizer = load(path_or_id, adapter, dtype, device, revision)
        return cls(model, tokenizer, config, threads=threads)

    def generate(
        self,
        prompts: Any,
        attention_mask: Tensor | None = None,
        streamer: Any = None,
        *,
        config: DecodeConfig | Sequence[DecodeConfig] | None = None,
        max_batch: int | Literal["auto"] = "auto",
        errors: Literal["raise", "return"] = "raise",
        allow_mask_in_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        **overrides: Any,
    ) -> DecodeOutput:
        """Decode one prompt or many; results come in the order of the prompts.

        prompts        text, texts, one chat, chats, ids [P] or [B, P] (tensor or array), a list of
                       ids, or what a tokenizer returns. A text goes to the model as it stands; the
                       chat template is for chats (the command line makes a chat of a text, unless
                       `--raw`). A chat is a list of messages, or a dict
                       with `messages` and, for itself, the three options of chats below
        attention_mask [B, P] for padded ids, padding on either side
        streamer       a transformers streamer; one prompt at a time. It gets the prompt, then
                       committed ids per block; `put_draft`, where it has one, gets every step
        config         in place of the Decoder's; or one per prompt, which must share the options
                       in `prepare.shared`: requests with different ones decode together
        max_batch      requests that decode together; the next one enters as one ends. "auto": on
                       CUDA as many as the free memory holds of the longest one, up to 128, else 32.
                       Out of memory, half as many go on, with the same results
        errors         "raise": a bad prompt raises TypeError or ValueError before any model call.
                       A request with bad logits fails alone; its error is in `errors` of the
                       output, or raised when it was the only one. So is DecodeMemoryError, in any
                       case. Whatever is raised while decoding has `output`, a `DecodeOutput`.
                       "return": each of these ends its own request and is in `errors`
        allow_mask_in_prompt  keep a literal mask id of a prompt, protected, instead of refusing it
        tools, chat_template_kwargs, continue_final_message  for the template of chats: schemas,
                       variables such as enable_thinking, and whether a last turn of the assistant
                       is continued; without it, such a chat is refused. See `prompts.messages`
        overrides      options of `DecodeConfig` for this call, on top of `config`

        A KeyboardInterrupt, as Ctrl-C raises it, returns what there is of several prompts: requests
        that had not ended have finish_reason "interrupted" and their committed tokens, and
        `interrupted` of the output is set. With a single prompt it is raised.
        """
        if errors not in ("raise", "return"):
            raise ValueError(f'errors must be "raise" or "return"; got {errors!r}')
        requests, engine = self._prepare(
            prompts,
            attention_mask,
            config,
            overrides,
            max_batch,
            chats=ChatOptions(tools, chat_template_kwargs, continue_final_message),
            allow_mask=allow_mask_in_prompt,
            keep_refused=errors == "return",
        )
        if streamer is not None:
            attach_streamer(streamer, requests)
        raising, alone = errors == "raise", len(requests) == 1
        fatal: RequestError | None = None
        interrupted, steps = False, engine.run()
        try:
            with self._evaluating(), contextlib.closing(steps):
                for finished in steps:
                    for error in (request.error for request in finished if raising):
                        if error and (alone or isinstance(error, DecodeMemoryError)):
                            fatal = error
                    if fatal:
                        break
        except KeyboardInterrupt:
            if alone:
                raise
            interrupted = True
        except Exception as error:  # of the model, most likely: what has ended is not lost
            if getattr(error, "output", None) is None:  # some have one of their own
                error.output = self._output(requests, False)  # type: ignore[attr-defined]
                ended = sum(request.finished for request in requests)
                error.add_note(f"{ended} of {len(requests)} requests had ended: see its `output`")
            raise
        finally:
            if streamer is not None:
                streamer.end()
        out = self._output(requests, interrupted)
        if fatal is not None:
            fatal.output = out
            raise fatal
        return out

    def _output(self, requests: list[Request], interrupted: bool) -> DecodeOutput:
        for request in requests:
            if not request.finished:
                request.stats.finish_reason = "interrupted"
                if len(request.generated) > request.stats.tokens:  # half of a commit
                    del request.generated[request.stats.tokens :]
                    if request.text:
                        request.text.update(request.generated)
        results = [_result(request) for request in requests]
        texts = [result.text for result in results if result.text is not None]
        return DecodeOutput(
            sequences=[result.sequence for result in results],
            texts=texts if self.tokenizer is not None else None,
            stats=[result.stats for result in results],
            errors=[result.error for result in results],
            interrupted=interrupted,
        )

    def as_completed(
        self,
        prompts: Any,
        attention_mask: Tensor | None = None,
        *,
        config: DecodeConfig | Sequence[DecodeConfig] | None = None,
        max_batch: int | Literal["auto"] = "auto",
        allow_mask_in_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        **overrides: Any,
    ) -> Iterator[Result]:
        """Decode one prompt or many and yield the result of each as it ends, in that order.

        Arguments as of `generate`; the result of a request is the same. One that fails, as
        `errors="return"` says, has its error in its `Result`. A KeyboardInterrupt in a step, as
        Ctrl-C raises it, is raised behind the results that were there by then.
        """
        requests, engine = self._prepare(
            prompts,
            attention_mask,
            config,
            overrides,
            max_batch,
            chats=ChatOptions(tools, chat_template_kwargs, continue_final_message),
            allow_mask=allow_mask_in_prompt,
            keep_refused=True,
        )
        return self._results(engine, requests)

    def _results(self, engine: Engine, requests: list[Request]) -> Iterator[Result]:
        """Of requests as they finish: those that were refused first."""
        seen = {id(request) for request in requests if request.finished}
        yield from (_result(request) for request in requests if id(request) in seen)
        steps = engine.run()
        with self._evaluating(), contextlib.closing(steps):
            while True:
                try:
                    finished = next(steps, None)
                except BaseException:  # what ended in this step is not lost
                    ended = (r for r in requests if r.finished and id(r) not in seen)
                    yield from map(_result, ended)
                    raise
                if finished is None:
                    return
                seen.update(map(id, finished))
                yield from map(_result, finished)

    def stream(
        self,
        prompt: Any,
        drafts: bool = False,
        *,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        **overrides: Any,
    ) -> Iterator[Event]:
        """Decode one prompt and yield events as they happen; see `Event`, and `generate` for chats.

        The texts of the "commit" events joined are exactly what `generate` returns. With `drafts`
        a "draft" event follows every forward.
        """
        chats = ChatOptions(tools, chat_template_kwargs, continue_final_message)
        requests, engine = self._prepare(prompt, None, None, overrides, chats=chats)
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
        try:
            with self._evaluating():
                for _ in engine.run():
                    while events:
                        yield events.popleft()
        finally:  # these know the engine, and it knows them: its memory would outlive the stream
            request.on_block = request.on_draft = None
        if request.error is not None:
            raise request.error
        yield Event("end", block=request.start // request.block_length, stats=request.stats)

    def _prepare(
        self,
        prompts: Any,
        attention_mask: Tensor | None,
        config: DecodeConfig | Sequence[DecodeConfig] | None,
        overrides: dict[str, Any],
        max_batch: int | Literal["auto"] = "auto",
        **options: Any,
    ) -> tuple[list[Request], Engine]:
        each = one_by_one(prompts, attention_mask)
        given = self.config if config is None else config
        configs = one_per_prompt(given, overrides, len(each), self.model, self.family)
        requests, mask = as_requests(
            each, configs, self.model, self.tokenizer, self.family, **options
        )
        first = configs[0] if configs else self.config
        room = capacity(
            max_batch,
            self.model,
            first,
            self.device,
            shadow=first.rule(self.family.policy).plan == "shadow",
            full=self.family.attention == "full",
        )
        threads = number_of(self.threads, self.model) if self.device.type == "cpu" else None
        return requests, Engine(self.model, requests, mask, self.device, room, threads)

    @property
    def device(self) -> torch.device:
        """Where the model computes: where its parameters are, or the CPU for one without any.

        Parameters that are offloaded lie nowhere; accelerate's hook says where they are taken.
        """
        execution = getattr(getattr(self.model, "_hf_hook", None), "execution_device", None)
        if execution is not None:
            return torch.device(execution)
        parameters = getattr(self.model, "parameters", None)
        for parameter in parameters() if parameters else ():
            if parameter.device.type != "meta":
                return parameter.device
        return torch.device("cpu")

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


def _result(request: Request) -> Result:
    return Result(
        request.index,
        torch.tensor(request.generated, dtype=torch.int64),
        request.text.text if request.text else None,
        request.stats,
        request.error,
    )
