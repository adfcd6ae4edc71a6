"""`Decoder`: a model, a tokenizer and a configuration, ready to generate."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fastedit.chats.messages import ChatOptions
from fastedit.chats.template import RawTextWarning, as_chats, has_template
from fastedit.config import DecodeConfig
from fastedit.engine.events import OpenEngine, end_of, report, trace_of
from fastedit.engine.kept import Kept
from fastedit.heads import Head
from fastedit.memory.capacity import Room
from fastedit.models.families import Family, family_of
from fastedit.models.load import load
from fastedit.models.threads import Threads, checked
from fastedit.models.weights import device_of, evaluating
from fastedit.plans.scores import head_for, stored_head
from fastedit.policies import parse
from fastedit.prompts import drafts
from fastedit.prompts.inputs import is_read_on, one_by_one
from fastedit.prompts.streamers import attach_streamer
from fastedit.request.configs import configs_on_demand, one_per_prompt
from fastedit.request.prepare import as_requests
from fastedit.request.request import Request
from fastedit.request.settled import Settled, rule_of
from fastedit.results import (
    DecodeMemoryError,
    DecodeOutput,
    Event,
    ModelError,
    RequestError,
    Result,
)


class Decoder:
    """Generates with a diffusion language model that drafts blocks of tokens and edits them.

    model      called as `model(input_ids=, attention_mask=, position_ids=, past_key_values=,
               use_cache=)`, shapes in `fastedit.plans.call.ModelCall`; returns `.logits`
    tokenizer  needed for texts, chats and stop strings; id tensors work without
    config     defaults of every call; `generate(..., name=value)` overrides single options
    family     how the model reads its canvas; None: what the model is known as
    head       of this model, or the folder of one: a correction head for policies that need scores,
               or a head for the next token, which a model may also have itself;
               one that is loaded gets the model's dtype and device
    threads    of torch's operations on a CPU while it decodes: "auto" takes one for a small model,
               else as many as torch is set to use and the process has cores; None: as torch is set
    """

    def __init__(
        self,
        model: Callable[..., Any],
        tokenizer: Any = None,
        config: DecodeConfig | None = None,
        family: Family | None = None,
        head: Head | str | os.PathLike[str] | None = None,
        *,
        threads: Threads = "auto",
    ) -> None:
        self.threads = checked(threads)
        _check_types(config, family)
        self.family = family or family_of(model)
        self.model, self.tokenizer = model, tokenizer
        self.head = None if head is None else head_for(model, self.family, head)
        self.config = config or DecodeConfig()
        _check_released(self.family)
        self._kept = Kept(self.threads)
        self._told_of_texts = False

    def __repr__(self) -> str:
        """The model and its size, where it computes, and what decodes."""
        model = getattr(self.model, "__name__", type(self.model).__name__)
        parameters = getattr(self.model, "parameters", None)
        weights = list(parameters()) if parameters else []
        if weights:
            count = sum(weight.numel() for weight in weights)
            dtype = str(weights[0].dtype).removeprefix("torch.")
            model += f" of {count:,} parameters in {dtype} on {self.device}"
        texts = "texts" if self.tokenizer else "ids alone, no tokenizer"
        texts = "texts and chats" if has_template(self.tokenizer) else texts
        lines = [f"{model}, for {texts}"]
        if self.head is not None:
            lines.append(f"head {type(self.head).__name__}")
        with contextlib.suppress(ValueError):  # of options that this rule does not have
            lines.append(repr(rule_of(self.config, self.family)))
        return "Decoder(\n  {})".format(",\n  ".join([*lines, repr(self.config)]))

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        config: DecodeConfig | None = None,
        adapter: str | os.PathLike[str] | None = None,
        head: Head | str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        *,
        threads: Threads = "auto",
    ) -> Decoder:
        """Load a local folder, a Hub id, or "tiny" (the checkpoint in the package, no network).

        adapter: a peft folder or Hub id, merged into the weights. head: a correction head, or the
        folder of one, which may be that of the adapter or of the checkpoint. dtype "auto": as
        stored. device "auto": an accelerator where there is one. Safetensors only; no remote code
        runs.
        """
        checked(threads)
        if isinstance(head, (str, os.PathLike)):  # before the model, which may take long
            head = stored_head(head)
            model, tokenizer = load(path_or_id, adapter, dtype, device, revision)
            head = head.to(device_of(model), model.dtype)
        else:
            model, tokenizer = load(path_or_id, adapter, dtype, device, revision)
        return cls(model, tokenizer, config, head=head, threads=threads)

    def generate(
        self,
        prompts: Any,
        attention_mask: Tensor | None = None,
        streamer: Any = None,
        draft: Any = None,
        *,
        keep_draft: bool = False,
        config: DecodeConfig | Sequence[DecodeConfig] | None = None,
        max_batch: int | Literal["auto"] = "auto",
        errors: Literal["raise", "return"] = "raise",
        allow_mask_in_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        trace: bool = False,
        **overrides: Any,
    ) -> DecodeOutput:
        """Decode one prompt or many; results come in the order of the prompts.

        prompts        text, texts, one chat, chats, ids [P] or [B, P] (tensor or array), a list of
                       ids, or what a tokenizer returns. A text goes to the model as it stands,
                       which a warning says once where there is a chat template: `chat` takes a
                       text as a user's message, and so does the command line unless `--raw`.
                       A chat is a list of messages, or a dict
                       with `messages` and, for itself, the three options of chats below
        attention_mask [B, P] for padded ids, padding on either side
        streamer       a transformers streamer; one prompt at a time. It gets the prompt, then
                       committed ids per block; `put_draft`, where it has one, gets every step
        draft          a text or ids per prompt to start from in place of masks; None for a prompt
                       without one, which has to hold a token then. Its masks are filled, its other
                       tokens are what editing policies work on. It is as long as the result, unless
                       `max_new_tokens` is given: masks follow behind it. In a text, the mask token
                       is a mask
        keep_draft     protect the tokens of drafts: only their masks are filled, and what follows
        config         in place of the Decoder's; or one per prompt, whatever they differ in:
                       requests that share the options in `prepare.shared` decode in one forward,
                       and such groups in turn
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
        trace          record what every forward did to each position, and why: `traces` of the
                       output, docs/traces.md. Tokens are the same
        overrides      options of `DecodeConfig` for this call, on top of `config`

        A KeyboardInterrupt, as Ctrl-C raises it, returns what there is of several prompts: requests
        that had not ended have finish_reason "interrupted" and their committed tokens, and
        `interrupted` of the output is set. With a single prompt it is raised.
        """
        if errors not in ("raise", "return"):
            raise ValueError(f'errors must be "raise" or "return"; got {errors!r}')
        began = time.perf_counter()
        requests, room = self._prepare(
            prompts,
            attention_mask,
            config,
            overrides,
            max_batch,
            draft,
            keep_draft,
            chats=ChatOptions(tools, chat_template_kwargs, continue_final_message),
            allow_mask=allow_mask_in_prompt,
            keep_refused=errors == "return",
            trace=trace,
        )
        if streamer is not None:
            attach_streamer(streamer, requests)
        raising, alone = errors == "raise", len(requests) == 1
        fatal: RequestError | None = None
        interrupted = False
        try:
            with self._running(requests, room) as steps:
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
                error.output = self._output(requests, False, began)  # type: ignore[attr-defined]
                ended = sum(map(_ended, requests))
                error.add_note(f"{ended} of {len(requests)} requests had ended: see its `output`")
            raise
        finally:
            if streamer is not None:
                streamer.end()
        out = self._output(requests, interrupted, began)
        if fatal is not None:
            fatal.output = out
            raise fatal
        return out

    def _output(self, requests: list[Request], interrupted: bool, began: float) -> DecodeOutput:
        for request in requests:
            if not request.finished:  # the engine was left before it was this one's turn
                request.stop("interrupted")
        results = [_result(request) for request in requests]
        texts = [result.text for result in results if result.text is not None]
        traces = [result.trace for result in results if result.trace is not None]
        return DecodeOutput(
            sequences=[result.sequence for result in results],
            texts=texts if self.tokenizer is not None else None,
            stats=[result.stats for result in results],
            errors=[result.error for result in results],
            interrupted=interrupted,
            traces=traces or None,
            seconds=time.perf_counter() - began,
        )

    def chat(self, text_or_messages: Any, **options: Any) -> DecodeOutput:
        """`generate` for chats: a text is what a user says, and goes through the chat template.

        text_or_messages  a text, which becomes one message of a user, or one chat as `generate`
                          takes it; or a list of these
        options           as of `generate`: `streamer`, `tools`, options of `DecodeConfig`, ...

        Raises ValueError without a chat template, TypeError for ids.
        """
        return self.generate(as_chats(text_or_messages, self.tokenizer), **options)

    def as_completed(
        self,
        prompts: Any,
        attention_mask: Tensor | None = None,
        *,
        draft: Any = None,
        keep_draft: bool = False,
        config: DecodeConfig | Iterable[DecodeConfig] | None = None,
        max_batch: int | Literal["auto"] = "auto",
        allow_mask_in_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        trace: bool = False,
        **overrides: Any,
    ) -> Iterator[Result]:
        """Decode one prompt or many and yield the result of each as it ends, in that order.

        Arguments as of `generate`; the result of a request is the same. One that fails, as
        `errors="return"` says, has its error in its `Result`. A KeyboardInterrupt in a step, as
        Ctrl-C raises it, is raised behind the results that were there by then.

        prompts may also be an iterator of texts, chats or ids: it is read only as far as two
        batches are decoding or waiting, and `index` counts what it gave. config and draft may then
        be iterators too, which are read along with it; max_batch="auto" counts on the Decoder's
        config in that case. Whatever reading raises is raised behind the results of all that was
        read before. To close the iteration over results ends what is decoding, and nothing more is
        read.
        """
        prepare = self._reading if is_read_on(prompts) else self._prepare
        requests, room = prepare(
            prompts,
            attention_mask,
            config,
            overrides,
            max_batch,
            draft,
            keep_draft,
            chats=ChatOptions(tools, chat_template_kwargs, continue_final_message),
            allow_mask=allow_mask_in_prompt,
            keep_refused=True,
            trace=trace,
        )
        return self._results(requests, room)

    def _results(self, requests: Iterable[Request], room: Room) -> Iterator[Result]:
        """Of requests as they finish; of those that are there already, the refused ones first."""
        if isinstance(requests, list):
            requests = sorted(requests, key=lambda request: not request.finished)
        inside: dict[int, Request] = {}

        def noted() -> Iterator[Request]:
            for request in requests:
                inside[id(request)] = request
                yield request

        with self._running(noted(), room) as steps:
            while True:
                try:
                    finished = next(steps, None)
                except BaseException:  # what ended in this step is not lost
                    yield from map(_result, filter(_ended, inside.values()))
                    raise
                if finished is None:
                    return
                for request in finished:
                    del inside[id(request)]
                yield from map(_result, finished)

    def stream(
        self,
        prompt: Any,
        drafts: bool = False,
        *,
        draft: Any = None,
        keep_draft: bool = False,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        trace: bool = False,
        **overrides: Any,
    ) -> Iterator[Event]:
        """Decode one prompt and yield events as they happen; see `Event`, and `generate` for chats
        and for `draft` and `keep_draft`.

        The texts of the "commit" events joined are exactly what `generate` returns. With `drafts`
        a "draft" event follows every forward. With `trace` the last event has one, as of
        `generate`.
        """
        chats = ChatOptions(tools, chat_template_kwargs, continue_final_message)
        requests, room = self._prepare(
            prompt,
            None,
            None,
            overrides,
            draft=draft,
            keep_draft=keep_draft,
            chats=chats,
            trace=trace,
        )
        if len(requests) != 1:
            raise ValueError(f"stream takes one prompt, got {len(requests)}; use generate")
        events = deque[Event]()
        report(requests[0], events, drafts)
        return self._events(requests[0], room, events)

    def _events(self, request: Request, room: Room, events: deque[Event]) -> Iterator[Event]:
        try:
            with self._running([request], room) as steps:
                for _ in steps:
                    while events:
                        yield replace(events.popleft(), request=0)
        finally:
            end = end_of(request)
        if request.error is not None:
            raise request.error
        yield replace(end, request=0)

    def engine(self, max_batch: int | Literal["auto"] = "auto") -> OpenEngine:
        """An engine of its own for requests that come and go, from any threads.

        max_batch  requests that decode together, as of `generate`. "auto" counts on the Decoder's
                   config: what a request asks for beyond it may be more than fits
        """
        configs = one_per_prompt(self.config, {}, 1, self.model, self.family)
        room = Room.of(max_batch, configs, self.family)

        settled = Settled(self.model, self.tokenizer, self.family, self.head)

        def prepare(
            prompt: Any,
            config: DecodeConfig | None,
            overrides: dict[str, Any],
            draft: Any,
            keep_draft: bool,
            trace: bool,
        ) -> list[Request]:
            requests, _ = self._prepare(
                prompt,
                None,
                config,
                overrides,
                draft=draft,
                keep_draft=keep_draft,
                settled=settled,
                trace=trace,
            )
            if len(requests) != 1:
                raise ValueError(f"add takes one prompt, got {len(requests)}")
            return requests

        return OpenEngine(self._kept.new(self.model, self.head, room, self.device), prepare)

    def _prepare(
        self,
        prompts: Any,
        attention_mask: Tensor | None,
        config: DecodeConfig | Iterable[DecodeConfig] | None,
        overrides: dict[str, Any],
        max_batch: int | Literal["auto"] = "auto",
        draft: Any = None,
        keep_draft: bool = False,
        **options: Any,
    ) -> tuple[list[Request], Room]:
        each = one_by_one(prompts, attention_mask)
        if draft is None:  # what stands around a hole is no question
            self._tell_of_texts(each)
        drafts.check_kept(keep_draft, draft)
        drafted = drafts.one_per_prompt(draft, len(each))
        given = self.config if config is None else config
        configs = one_per_prompt(given, overrides, len(each), self.model, self.family)
        options |= {"count": len(each), "drafts": drafted, "keep_draft": keep_draft}
        options["head"] = self.head
        requests = as_requests(each, configs, self.model, self.tokenizer, self.family, **options)
        return list(requests), Room.of(max_batch, configs or [self.config], self.family)

    def _reading(
        self,
        prompts: Iterable[Any],
        attention_mask: Tensor | None,
        config: DecodeConfig | Iterable[DecodeConfig] | None,
        overrides: dict[str, Any],
        max_batch: int | Literal["auto"],
        draft: Any,
        keep_draft: bool,
        **options: Any,
    ) -> tuple[Iterator[Request], Room]:
        """`_prepare` for prompts that are read as they are needed."""
        if attention_mask is not None:
            raise ValueError("attention_mask goes with an id tensor; an iterator needs none")
        given = self.config if config is None else config
        configs = configs_on_demand(given, overrides, self.model, self.family)
        drafts.check_kept(keep_draft, draft)
        options |= {"drafts": drafts.on_demand(draft), "keep_draft": keep_draft, "head": self.head}
        if draft is None:
            prompts = (self._tell_of_texts([prompt])[0] for prompt in prompts)
        requests = as_requests(prompts, configs, self.model, self.tokenizer, self.family, **options)
        known = given if isinstance(given, DecodeConfig) else self.config
        (known,) = one_per_prompt(known, overrides, 1, self.model, self.family)
        return requests, Room.of(max_batch, [known], self.family)

    def _tell_of_texts(self, prompts: Sequence[Any]) -> Sequence[Any]:
        """Warns once of a text that a chat template is not applied to; returns `prompts`."""
        known = self._told_of_texts or not has_template(self.tokenizer)
        if not known and any(isinstance(prompt, str) for prompt in prompts):
            self._told_of_texts = True
            warnings.warn(
                "a text goes to the model as it stands, and this tokenizer has a chat template: "
                "decoder.chat(text) asks it as a user would",
                RawTextWarning,
                stacklevel=4,
            )
        return prompts

    @contextlib.contextmanager
    def _running(
        self, requests: Iterable[Request], room: Room
    ) -> Iterator[Generator[list[Request], None, None]]:
        """What `Engine.run` yields of these requests."""
        with (
            self._kept.lend(self.model, self.head, room, self.device) as engine,
            evaluating(self.model),
            contextlib.closing(engine.run(requests)) as steps,
        ):
            yield steps

    def close(self) -> None:
        """Give back what is kept for the next call: keys and values, and CUDA graphs."""
        self._kept.close()

    @property
    def device(self) -> torch.device:
        """Where the model computes: where its parameters are, or the CPU for one without any."""
        return device_of(self.model)


def _check_types(config: Any, family: Any) -> None:
    """Raises TypeError for what is no config or no family."""
    if config is not None and not isinstance(config, DecodeConfig):
        raise TypeError(f"config must be a DecodeConfig; got {config!r:.80}: DecodeConfig(...)")
    if family is not None and not isinstance(family, Family):
        raise TypeError(
            f"family must be a fastedit.models.Family; got {family!r:.80}: leave it out for a "
            "model that is known, or say how it reads its canvas with Family(...)"
        )


def _check_released(family: Family) -> None:
    """Raises ValueError for a policy that is none; families know nothing of policies."""
    try:
        parse(family.policy)
    except ValueError as error:
        raise ValueError(f"the family's {error}") from None


def _ended(request: Request) -> bool:
    """By itself, and not because all of the call did."""
    reason, error = request.stats.finish_reason, request.error
    return request.finished and reason != "interrupted" and not isinstance(error, ModelError)


def _result(request: Request) -> Result:
    trace = trace_of(request)  # before its stats are read: it adds to them
    return Result(
        request.index,
        torch.tensor(request.generated, dtype=torch.int64),
        request.text.text if request.text else None,
        request.stats,
        request.error,
        trace,
    )
