"""What a trace holds: blocks as they opened, forwards, events; and what follows from these."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from fastedit.traces.history import History

FILL, EDIT, REMASK, INSERT, DELETE, COMMIT = KINDS = (
    "fill",
    "edit",
    "remask",
    "insert",
    "delete",
    "commit",
)


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One position, changed or committed by one forward.

    kind      "fill": a mask became a token; "edit": a token became another one; "remask": a token
              became a mask; "insert": something was put before the position; "delete": it was taken
              out; "commit": it will never change again, and is returned
    forward   number of the forward among those of the request, from 1 on
    block     index of its block, counted from the sequence's first token
    position  in the generated sequence, from 0 on, as it stood before the forward; negative in the
              prompt
    old, new  token ids; None where there is none: the old one of an insert, the new one of a delete
    p_old, p_new  their probabilities as the policy read them; None where it did not. Of a delete,
              and of an insert that the model asks for by an id, the new one is that of this id
    confidence  probability of the token that the policy would write there; None where not read
    entropy   in nats, of policies that read it; score: of a correction head
    policy    name of the decision rule
    """

    kind: str
    forward: int
    block: int
    position: int
    old: int | None
    new: int | None
    p_old: float | None = None
    p_new: float | None = None
    confidence: float | None = None
    entropy: float | None = None
    score: float | None = None
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A block, or all that may change, as it stood before its first forward.

    position: of the first of `ids`, which may be of the prompt.
    """

    forward: int
    block: int
    position: int
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward over positions from `position` on: what it was sure of, None where not read.

    moved  where each position of what it has left stood before it, counted from `position` on; -1
           for what was put in, whose ids are `put`. None: nothing moved
    """

    forward: int
    block: int
    position: int
    confidence: list[float | None]
    entropy: list[float | None] | None = None
    moved: list[int] | None = None
    put: list[int] = field(default_factory=list)


Step = Opened | Forward | TraceEvent
CHANGES = (FILL, EDIT, REMASK)


@dataclass
class Trace:
    """One request, forward by forward.

    header  request, model, policy, parameters, options, seed, tokenizer, mask_token_id,
            prompt_tokens; see docs/traces.md
    steps   in order: `Opened` before the first forward of a block; of every forward that decided,
            a `Forward` and the events that it brought
    tokens  texts of the ids that occur
    stats   of the request, as `DecodeStats.as_dict`, once it has ended
    """

    header: dict[str, Any]
    steps: list[Step]
    tokens: dict[int, str]
    stats: dict[str, Any]

    @property
    def events(self) -> list[TraceEvent]:
        return [step for step in self.steps if isinstance(step, TraceEvent)]

    @property
    def forwards(self) -> list[Forward]:
        """Those that decided; forwards that only refreshed keys and values are not among them."""
        return [step for step in self.steps if isinstance(step, Forward)]

    @property
    def policy(self) -> str:
        """The policy as `name:field=value,...`."""
        return str(self.header.get("policy", ""))

    @property
    def mask_token_id(self) -> int | None:
        return self.header.get("mask_token_id")

    @property
    def sequence(self) -> list[int]:
        """The generated ids: what was committed."""
        return [e.new for e in self.events if e.kind == COMMIT and e.new is not None]

    def counts(self) -> dict[str, int]:
        """How many events there are of each kind."""
        found = Counter(event.kind for event in self.events)
        return {kind: found[kind] for kind in KINDS}

    def turns(self) -> Iterator[Opened | tuple[Forward, list[TraceEvent]]]:
        """Blocks as they open, and forwards with what each of them brought, in order."""
        forward: Forward | None = None
        events: list[TraceEvent] = []
        for step in self.steps:
            if isinstance(step, TraceEvent):
                events.append(step)
                continue
            if forward is not None:
                yield forward, events
            forward, events = None, []
            if isinstance(step, Opened):
                yield step
            else:
                forward = step
        if forward is not None:
            yield forward, events

    def replay(self) -> Iterator[tuple[Forward, list[TraceEvent], dict[int, int]]]:
        """Forwards with their events, and the canvas after each: ids by position of all that is
        open by then. It is one canvas, which changes as this goes on."""
        canvas: dict[int, int] = {}
        for turn in self.turns():
            if isinstance(turn, Opened):
                canvas.update(zip(count(turn.position), turn.ids, strict=False))
                continue
            forward, events = turn
            changed = ((e.position, e.new) for e in events if e.kind in CHANGES)
            canvas.update((place, new) for place, new in changed if new is not None)
            if forward.moved is not None:
                move(canvas, forward, forward.put)
            yield forward, events, canvas

    def final(self) -> dict[int, int]:
        """The canvas after the last forward, with what is behind the end of the sequence."""
        canvas: dict[int, int] = {}
        for _, _, now in self.replay():
            canvas = now
        return canvas

    def filling(self) -> int:
        """Forwards from the first of a block to the one that filled its last mask, of all blocks.

        Of a policy that may write all blocks until the end, they count as one.
        """
        found, first, last = 0, 1, 0
        for step in self.steps:
            if isinstance(step, Opened):
                found += last - first + 1
                first, last = step.forward, step.forward - 1
            elif isinstance(step, TraceEvent) and step.kind == FILL:
                last = step.forward
        return found + last - first + 1

    def oscillations(self) -> int:
        """How often a position got a token back that it had held two versions before; masks are
        versions, and what moves takes them along."""
        before: dict[int, int] = {}
        found = 0
        for forward, events, _ in self.replay():
            for event in events:
                if event.kind in CHANGES and event.old is not None:
                    back = event.new != self.mask_token_id
                    found += back and before.get(event.position) == event.new
                    before[event.position] = event.old
            if forward.moved is not None:
                move(before, forward, ())
        return found

    def history(self, position: int) -> History:
        """What happened to the token that stands at `position` of the sequence, and why.

        Raises IndexError for a position that was never decoded, TypeError for what is no integer.
        """
        from fastedit.traces.history import history

        if type(position) is not int:
            raise TypeError(f"position must be an integer; got {position!r}")

        return history(self, position)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON Lines; see `traces.save`."""
        from fastedit.traces.files import save

        save([self], path)

    def text(self, token: int | None) -> str:
        """How a token reads; the mask as [MASK]."""
        if token is None:
            return ""
        if token == self.mask_token_id:
            return "[MASK]"
        return self.tokens.get(token, f"<{token}>")

    def _repr_html_(self) -> str:
        from fastedit.traces.page import framed

        return framed([self])

    def __repr__(self) -> str:
        found = ", ".join(f"{number} {kind}" for kind, number in self.counts().items() if number)
        return f"Trace({self.policy}: {len(self.forwards)} forwards, {found or 'no event'})"


Value = TypeVar("Value")


def move(values: dict[int, Value], forward: Forward, put: Sequence[Value]) -> None:
    """Let `values` by position go where their positions went, and `put` where something was put."""
    assert forward.moved is not None
    first, more = forward.position, iter(put)
    held = {i: values.pop(first + i, None) for i in range(len(forward.confidence))}
    for place, old in enumerate(forward.moved, first):
        value = next(more, None) if old < 0 else held.get(old)
        if value is not None:
            values[place] = value
