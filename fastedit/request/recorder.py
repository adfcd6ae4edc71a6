"""Follows a traced request: what each step did to its positions, as the steps of a `Trace`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastedit import __version__
from fastedit.prompts.tokens import special_ids
from fastedit.request.record import Record
from fastedit.traces.trace import (
    COMMIT,
    DELETE,
    EDIT,
    FILL,
    INSERT,
    REMASK,
    Forward,
    Opened,
    Step,
    Trace,
    TraceEvent,
)

if TYPE_CHECKING:
    from fastedit.request.request import Request


class Recorder:
    """What there is of one request.

    origin  what its header says of the model and the tokenizer; tokenizer: for texts of ids
    """

    def __init__(self, origin: dict[str, Any], tokenizer: Any) -> None:
        self.origin, self.tokenizer = origin, tokenizer
        self.steps: list[Step] = []
        self._began = 0  # steps there were when the active block opened
        self._opened: int | None = None  # its first position; None before
        self._length = 0  # positions there are of it, where lengths vary
        self._held: dict[int, float | None] = {}  # probability of what each position holds
        self._trace: Trace | None = None

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Recorder:
        """Of a request of `model`. A local checkpoint goes by the name of its folder."""
        config = getattr(model, "config", None)
        name = getattr(config, "_name_or_path", None) or None
        if name is not None and Path(name).is_dir():
            name = Path(name).name
        origin = {
            "fastedit": __version__,
            "model": {
                "class": type(model).__name__,
                "name": name,
                "revision": getattr(config, "_commit_hash", None),
            },
            "tokenizer": None if tokenizer is None else type(tokenizer).__name__,
        }
        return cls(origin, tokenizer)

    def take(self, request: Request, record: Record, row: int) -> None:
        """A decision on its row, before the request itself follows it."""
        if request.committed:  # a forward that only refreshed keys and values
            return
        if record.lengths is not None and self._opened is None:
            self._length = request.begins
        here = _Row(request, record, row, self._length)
        if self._opened is None or (not request.policy.wide and self._opened != request.start):
            self._began, self._opened = len(self.steps), request.start
            self.steps.append(here.opened())
        self.steps += [here.forward(), *here.changes(), *here.moves()]
        self._held = here.held()
        if record.lengths is not None:
            self._length = record.lengths[row]

    def commit(self, request: Request, before: int) -> None:
        """What has become part of the result, from its `before`-th token on."""
        number, name = request.stats.forwards, request.policy.name
        for place, token in enumerate(request.generated[before:], before):
            block, p = _block(request, place), self._held.get(place)
            self.steps.append(
                TraceEvent(COMMIT, number, block, place, token, token, p, p, policy=name)
            )
        if not request.policy.wide:  # what begins again now is the next block
            self._began, self._opened = len(self.steps), None

    def rewind(self, request: Request) -> None:
        """The active block begins again, or all blocks of a wide policy do."""
        del self.steps[0 if request.policy.wide else self._began :]
        self._opened = None

    def trace(self, request: Request) -> Trace:
        """Of a request that has ended; its stats get what only a trace tells."""
        if self._trace is None:
            tokens = self._texts()
            self._trace = Trace(self._header(request, tokens), self.steps, tokens, {})
            stats = request.stats
            stats.oscillations = self._trace.oscillations()
            stats.forwards_after_last_mask = stats.forwards - self._trace.filling()
            self._trace.stats = request.stats.as_dict()
        return self._trace

    def _header(self, request: Request, tokens: dict[int, str]) -> dict[str, Any]:
        special = set() if self.tokenizer is None else special_ids(self.tokenizer)
        options = {
            field.name: getattr(request.config, field.name)
            for field in dataclasses.fields(request.config)
            if field.name not in ("policy", "seed", *request.policy.parameters())
        }
        return {
            "request": request.index,
            **self.origin,
            **request.policy.as_dict(),
            "options": options,
            "seed": request.seed,
            "mask_token_id": request.mask_token_id,
            "special_tokens": sorted(special & tokens.keys()),
            "prompt_tokens": len(request.prompt),
        }

    def _texts(self) -> dict[int, str]:
        if self.tokenizer is None:
            return {}
        ids: set[int] = set()
        for step in self.steps:
            if isinstance(step, Opened):
                ids.update(step.ids)
            elif isinstance(step, TraceEvent):
                ids.update(token for token in (step.old, step.new) if token is not None)
        each = sorted(ids)
        if not each:  # the request never began
            return {}
        texts = self.tokenizer.batch_decode(
            [[token] for token in each], clean_up_tokenization_spaces=False
        )
        return dict(zip(each, texts, strict=True))


class _Row:
    """One row of a record as arrays, its columns as positions of the generated sequence.

    length: columns that there were before the decision, where lengths vary.
    """

    def __init__(self, request: Request, record: Record, row: int, length: int) -> None:
        assert record.planes is not None
        planes = record.planes[:, row].cpu().numpy()
        if record.lengths is not None:
            planes = planes[:, :length]
        self.old, self.written = planes[:2].astype(np.int64)
        self.p_old, self.p_new, self.confidence, self.entropy, self.score, self.p_put = planes[2:]
        self.new = record.row(row).cpu().numpy()
        self.request, self.mask = request, request.mask_token_id
        self.earlier = record.ids.shape[1] - request.width
        self.first = request.base - self.earlier - len(request.prompt)
        self.number = request.stats.forwards + record.step - request.entered
        self.source: list[int] | None = None
        if record.moves is not None:
            source, inserted, deleted = record.moves[:, row].cpu().numpy()
            width = len(self.old)
            self.inserted, self.deleted = inserted[:width] != 0, deleted[:width] != 0
            self.source = source[: len(self.new)].tolist()
            if len(self.new) == width and self.source == list(range(width)):
                self.source = None

    def opened(self) -> Opened:
        earlier = 0 if self.request.policy.wide else self.earlier
        place = self.first + earlier
        return Opened(self.number, _block(self.request, place), place, self.old[earlier:].tolist())

    def forward(self) -> Forward:
        first, last = 0, len(self.old)
        if self.source is None:  # else all of them, as they are counted from the first
            read = np.flatnonzero(~np.isnan(self.confidence))
            first, last = (int(read[0]), int(read[-1]) + 1) if len(read) else (0, 0)
        entropy = self.entropy[first:last]
        place = self.first + first
        return Forward(
            self.number,
            _block(self.request, place),
            place,
            _numbers(self.confidence[first:last]),
            None if np.isnan(entropy).all() else _numbers(entropy),
            self.source,
            [int(new) for new, old in zip(self.new, self.source or (), strict=False) if old < 0],
        )

    def changes(self) -> Iterator[TraceEvent]:
        for column in np.flatnonzero(self.old != self.written).tolist():
            old, new = int(self.old[column]), int(self.written[column])
            kind = FILL if old == self.mask else REMASK if new == self.mask else EDIT
            yield self._event(kind, column, old, new, self.p_old[column], self.p_new[column])

    def moves(self) -> Iterator[TraceEvent]:
        if self.source is None:
            return
        put = {old: new for new, old in zip(self.new, self.source[1:], strict=False)}
        for column in np.flatnonzero(self.inserted | self.deleted).tolist():
            if self.inserted[column]:
                new = int(put.get(column, self.mask))  # not there: cut off at the block's end
                yield self._event(INSERT, column, None, new, np.nan, self.p_put[column])
            if self.deleted[column]:
                old = int(self.written[column])
                p_old, p_new = self.p_old[column], self.confidence[column]
                yield self._event(DELETE, column, old, None, p_old, p_new)

    def held(self) -> dict[int, float | None]:
        """Probability of the token that each position holds now, as far as it is known."""
        if self.source is not None:
            return {}
        return dict(enumerate(_numbers(self.p_new), self.first))

    def _event(
        self, kind: str, column: int, old: int | None, new: int | None, p_old: float, p_new: float
    ) -> TraceEvent:
        place = self.first + column
        return TraceEvent(
            kind,
            self.number,
            _block(self.request, place),
            place,
            old,
            new,
            p_old=_number(p_old),
            p_new=_number(p_new),
            confidence=_number(self.confidence[column]),
            entropy=_number(self.entropy[column]),
            score=_number(self.score[column]),
            policy=self.request.policy.name,
        )


def _block(request: Request, place: int) -> int:
    """The block of a position of the generated sequence, counted from the first token of all."""
    behind = place + len(request.prompt) - request.start
    return request.start // request.block_length + behind // request.block_length


def _number(value: float) -> float | None:
    """Six digits, and None for NaN."""
    return None if value != value else float(f"{value:.6g}")


def _numbers(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
