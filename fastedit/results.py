"""What decoding returns: results, stats and events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastedit.traces.trace import Trace


class RequestError(RuntimeError):
    """One request failed; `output` holds what it had committed, when `generate` raised this.

    It crosses processes and copies with all of its fields.
    """

    index: int
    output: DecodeOutput | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way calls the class with the message, which is not what it takes. The
        # fields go as state: `output` holds this very error.
        return _unraised, (type(self), self.args), self.__dict__


def _unraised(kind: type[RequestError], args: tuple[Any, ...]) -> RequestError:
    return kind.__new__(kind, *args)


class BadLogitsError(RequestError):
    """The model returned NaN, +inf or no finite logit where a token had to be chosen.

    index: the request's place in the call; position: absolute position in its sequence.
    """

    def __init__(self, index: int, position: int) -> None:
        super().__init__(
            f"request {index}: bad logits (NaN, +inf or nothing finite) at position {position}; "
            "check the checkpoint and dtype, or run the model in float32"
        )
        self.index, self.position = index, position


class DecodeStalledError(RequestError):
    """strict_reference only: the model keeps predicting the mask token, and the block never ends.

    The released loop would go on for ever. See `fastedit.request.stalls.Progress`.
    """

    def __init__(self, index: int) -> None:
        super().__init__(
            f"request {index}: the model keeps predicting the mask token, so its block never ends; "
            "decode with strict_reference=False"
        )
        self.index = index


class DecodeBoundError(RequestError):
    """A block took more forwards than its policy says that one can take: a fault of the policy."""

    def __init__(self, index: int, bound: int, policy: str) -> None:
        super().__init__(
            f"request {index}: a block took more than the {bound} forwards that policy {policy} "
            "allows; its rule has to fill every mask within `most_forwards`"
        )
        self.index = index


class DecodeMemoryError(RequestError, torch.OutOfMemoryError):
    """Memory ran out while this request decoded alone."""

    def __init__(self, index: int, positions: int, reason: str) -> None:
        super().__init__(
            f"request {index}: out of memory for its {positions} positions, decoding alone; "
            "shorten the prompt or lower max_new_tokens, load the model in bfloat16, or free the "
            f"device of other work ({reason})"
        )
        self.index = index


class ModelError(RequestError):
    """A forward of this request, or its decision, raised; `__cause__` is what was raised."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(f"request {index}: its forward raised {type(error).__name__}: {error}")
        self.index, self.__cause__ = index, error


class RefusedError(RequestError, ValueError):
    """A prompt that cannot be decoded, in a call with errors="return"."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


@dataclass
class DecodeStats:
    """Counts of one request.

    forwards          step and KV-commit forwards that it took part in
    block_forwards    the same in blocks of rows: a forward with shadows counts 2, one over m blocks
                      that are reopened together m
    prefill_forwards  forwards over its prompt, before the first step
    tokens            generated tokens, up to and including the EOS
    m2t_commits       masks that became tokens, in all of its blocks
    t2t_edits         tokens that became other tokens, in all of its blocks
    remasks           tokens that became masks again
    inserts, deletes  positions that policies added and took away
    capped            whether a block reached the bound of its policy, which filled its last masks
    finish_reason     "eos", "stop", "length", "error", "interrupted" or "aborted"
    seed              the seed of its draws; used when temperature > 0
    oscillations      how often a position got a token back that it had held two versions before,
                      the mask being one; None unless the request was traced
    forwards_after_last_mask  those behind the forward that filled the last mask of their block; all
                      of them, in a block that began without one. Not those that are the first of
                      the next block as well (lookahead). None unless the request was traced
    approximate       whether some keys and values were of older ids: cache "prefix" or "dual"
    """

    forwards: int = 0
    block_forwards: int = 0
    prefill_forwards: int = 0
    tokens: int = 0
    m2t_commits: int = 0
    t2t_edits: int = 0
    remasks: int = 0
    inserts: int = 0
    deletes: int = 0
    capped: bool = False
    finish_reason: str = "length"
    seed: int = 0
    approximate: bool = False
    oscillations: int | None = None
    forwards_after_last_mask: int | None = None

    @property
    def tokens_per_forward(self) -> float:
        """TPF; 0.0 without a forward."""
        return self.tokens / self.forwards if self.forwards else 0.0

    @property
    def edits_per_100_tokens(self) -> float:
        """Edit intensity, E/100tok; 0.0 without a token."""
        return 100.0 * self.t2t_edits / self.tokens if self.tokens else 0.0

    @property
    def share_after_last_mask(self) -> float | None:
        """Of all forwards, those behind the last mask of their block; 0.0 without a forward, None
        unless the request was traced."""
        after = self.forwards_after_last_mask
        return None if after is None else after / self.forwards if self.forwards else 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._in_words()})"

    def _in_words(self) -> str:
        """What there was of it: what is zero and should be is left out."""
        parts = [
            f"{self.tokens} tokens in {self.forwards} forwards "
            f"({self.tokens_per_forward:.2f} per forward)",
            f"{self.t2t_edits} edits",
        ]
        rare = ("remasks", "inserts", "deletes")
        parts += [f"{getattr(self, name)} {name}" for name in rare if getattr(self, name)]
        parts += [name for name in ("capped", "approximate") if getattr(self, name)]
        return f"{', '.join(parts)}, finish_reason={self.finish_reason!r}"

    def as_dict(self) -> dict[str, Any]:
        """Every field and the ratios, ready for JSON."""
        return asdict(self) | {
            "tokens_per_forward": self.tokens_per_forward,
            "edits_per_100_tokens": self.edits_per_100_tokens,
            "share_after_last_mask": self.share_after_last_mask,
        }


class _ByValue:
    """Pickles tensors as arrays.

    torch's own way between processes takes a file descriptor for each of them, and a sender that
    lives until they have arrived.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {name: _converted(value, Tensor, _array) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, _converted(value, np.ndarray, torch.from_numpy))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _converted(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [_converted(item, kind, convert) for item in value]
    return convert(value) if isinstance(value, kind) else value


@dataclass
class Result(_ByValue):
    """One request that has ended; what `Decoder.as_completed` yields.

    index     the prompt's place in the call
    sequence  generated ids, 1-D int64 on the CPU: prompt excluded, first EOS included
    text      generated text without special tokens and stop text; None without a tokenizer
    error     None, or what ended it before its time
    trace     what happened to each position, where that was asked for
    """

    index: int
    sequence: Tensor
    text: str | None
    stats: DecodeStats
    error: RequestError | None
    trace: Trace | None = None

    def __repr__(self) -> str:
        return f"Result({_line(self.index, self.text, self.sequence, self.stats, self.error)})"


@dataclass
class Totals:
    """Of all requests of a call together.

    tokens, forwards  sums of those of the requests: forwards that took several along count for each
    seconds           from the call to its return
    """

    tokens: int
    forwards: int
    tokens_per_forward: float
    edits_per_100_tokens: float
    seconds: float


@dataclass
class DecodeOutput(_ByValue):
    """Results in the order of the prompts: the fields of `Result`, each as a list.

    texts        None without a tokenizer
    interrupted  whether Ctrl-C came, be it in the last step, when nothing was left to end
    traces       what happened to each position, where that was asked for
    seconds      from the call to its return
    """

    sequences: list[Tensor]
    texts: list[str] | None
    stats: list[DecodeStats]
    errors: list[RequestError | None]
    interrupted: bool = False
    traces: list[Trace] | None = None
    seconds: float = 0.0

    @property
    def totals(self) -> Totals:
        every = DecodeStats(
            forwards=sum(stats.forwards for stats in self.stats),
            tokens=sum(stats.tokens for stats in self.stats),
            t2t_edits=sum(stats.t2t_edits for stats in self.stats),
        )
        return Totals(
            every.tokens,
            every.forwards,
            every.tokens_per_forward,
            every.edits_per_100_tokens,
            self.seconds,
        )

    def __repr__(self) -> str:
        """A line per result, of the first few."""
        texts: Sequence[str | None] = self.texts or [None] * len(self.sequences)
        each = zip(range(_SHOWN), texts, self.sequences, self.stats, self.errors, strict=False)
        lines = [_line(*one) for one in each]
        more = len(self.sequences) - len(lines)
        lines += [f"... and {more} more"] if more else []
        ended = ", interrupted" if self.interrupted else ""
        head = f"DecodeOutput({len(self.sequences)} results{ended}"
        return "\n  ".join([head + (":" if lines else ""), *lines]) + ")"


_SHOWN, _SHOWN_TEXT = 5, 60  # results of an output, and letters of a text, in a repr


def _line(
    index: int, text: str | None, ids: Tensor, stats: DecodeStats, error: RequestError | None
) -> str:
    """A result in one line: its text, or its ids where there is no tokenizer, and its counts."""
    shown = repr(ids.tolist() if text is None else text)
    if len(shown) > _SHOWN_TEXT:
        shown = f"{shown[:_SHOWN_TEXT]}..."
    failed = f", {type(error).__name__}: {error}" if error is not None else ""
    return f"{index}: {shown}, {stats._in_words()}{failed}"


@dataclass
class Event:
    """What `Decoder.stream` yields, and a step of `Decoder.engine` returns.

    kind   "commit": text and ids that will never change again; "draft": the block as it stands,
           it may change; "end": the last event, with the stats
    text   commit: the next piece of the text, whole characters only; draft: the block's text
    ids    commit: the next ids; draft: the block's ids, mask tokens included
    block  index of the block, counted from the sequence's first token
    within  of the ids of a draft, how many lie before the end of the request; the block goes on
            behind it, with what is never returned. None: all of them
    moved  draft of a policy that inserts and deletes: where each of the ids stood before this
           forward, -1 for a mask that was put there
    inserted, deleted  of that draft: positions, before this forward, that got a mask before them,
           and that were taken out
    step   forwards so far in this block; 0 in a draft that came with the block before (lookahead)
    stats  of the request, with its last event
    request  its number, as `add` gave it; 0 of a stream
    error  of the last event: what ended the request before its time; trace: what happened to its
           positions, where that was asked for
    """

    kind: str
    text: str = ""
    ids: list[int] = field(default_factory=list)
    block: int = 0
    step: int = 0
    stats: DecodeStats | None = None
    request: int = 0
    error: RequestError | None = None
    trace: Trace | None = None
    within: int | None = None
    moved: list[int] | None = None
    inserted: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
