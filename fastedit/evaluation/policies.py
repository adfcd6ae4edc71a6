"""Policies side by side: the same checkpoint, the same questions, a row for each."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastedit.evaluation.accuracy import Measured, measure
from fastedit.evaluation.answers import BATCH, Record, prompt_of
from fastedit.evaluation.tuning.questions import Questions, of_task
from fastedit.policies import POLICIES, Confidence, Policy, parse
from fastedit.policies.fields import from_text
from fastedit.request.settled import rule_of

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.tasks import Task

ALL = "all"
_FIELD = re.compile(r"\s*\w+\s*=")  # begins what belongs to the policy before the comma


def named(texts: Iterable[str]) -> list[Policy]:
    """The policies of "P,Q" and the like, each once; "all" stands for every registered one.

    Commas part policies as well as the fields of one: a piece that begins with `name=` belongs to
    the policy before it. Raises ValueError as `policies.parse`, and where nothing is named.
    """
    pieces: list[str] = []
    for text in texts:
        first = len(pieces)
        for piece in text.split(","):
            if len(pieces) > first and _FIELD.match(piece):
                pieces[-1] += f",{piece}"
            elif piece.strip() == ALL:
                pieces += sorted(POLICIES)
            elif piece.strip():
                pieces.append(piece)
    found = list(dict.fromkeys(map(parse, pieces)))
    if not found:
        raise ValueError(f'no policy is named: give "{ALL}", or of {", ".join(sorted(POLICIES))}')
    return found


def grid(base: Policy, texts: Iterable[str], given: Iterable[str] = ()) -> list[Policy]:
    """`base` with every combination of the values that "field=value,value,..." name, each once.

    given  fields of `base` that something else sets

    Raises ValueError for a field that is none of `base`, is given twice or has no values, for a
    value that it does not take, and for two that do not go together.
    """
    known = base.parameters()
    values: dict[str, list[Any]] = {}
    for text in texts:
        pieces = re.split(r",(?=\s*\w+\s*=)", text)
        for piece in pieces:
            field, equals, listed = (part.strip() for part in piece.partition("="))
            if not equals or not listed.replace(",", "").strip():
                raise ValueError(f"--grid {text!r} must be FIELD=VALUE,VALUE,...")
            if field not in known:
                raise ValueError(
                    f"--grid {text!r}: {base.name} has no {field!r}; its parameters are "
                    f"{', '.join(known) or 'none'}"
                )
            if field in values or field in given:
                raise ValueError(f"--grid {text!r}: {field} is given twice; give it once")
            values[field] = []
            for value in filter(None, map(str.strip, listed.split(","))):
                try:
                    values[field].append(from_text(value, known[field]))
                except ValueError:
                    raise ValueError(
                        f"--grid {text!r}: {field} is of type {known[field].type.__name__}, not "
                        f"{value!r}"
                    ) from None
    found = []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        try:
            found.append(dataclasses.replace(base, **chosen))  # type: ignore[type-var]
        except ValueError as error:
            said = ",".join(f"{name}={value}" for name, value in chosen.items())
            raise ValueError(f"--grid {said}: {error}") from None
    return list(dict.fromkeys(found))


def compare(
    decoder: Decoder,
    task: Task,
    policies: Iterable[Policy],
    n: int,
    *,
    batch_size: int = BATCH,
    seed: int = 0,
    on_done: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> Iterator[dict[str, Any]]:
    """The rows of `compared` for the first n held-out problems of a task."""
    questions = of_task(task, n)
    for measured in compared(
        decoder, questions, policies, batch_size=batch_size, seed=seed, on_done=on_done, **overrides
    ):
        yield measured.numbers


def compared(
    decoder: Decoder,
    questions: Questions,
    policies: Iterable[Policy],
    *,
    record: Record | None = None,
    model: str = "",
    batch_size: int = BATCH,
    seed: int = 0,
    on_done: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> Iterator[Measured]:
    """A row per policy, as soon as it is measured: so a run that is stopped keeps what it has.

    Arguments as of `measure`, whose numbers a row holds, beside `policy` as it was asked for,
    `parameters` as it decodes and `needs_training`. One that cannot run, with this checkpoint or
    these options, has the `reason` in place of numbers.

    model  what `record` knows the decoder by
    seed   of rules that draw; each question has its own, counted from this one

    Raises ValueError and TypeError for options that no policy could run with.
    """
    first = prompt_of(decoder, questions, questions.items[0])
    decoder.stream(first, policy=Confidence(), **overrides)  # which goes with whatever can decode
    for policy in policies:
        options = overrides | {"policy": policy}
        row = policy.as_dict() | {"needs_training": policy.needs_training}
        try:
            decoder.stream(first, **options)  # checks, and decodes nothing
        except ValueError as error:
            yield Measured(row | {"reason": str(error)}, [])
            continue
        used = rule_of(decoder.config.replace(**options), decoder.family)
        row["parameters"] = used.as_dict()["parameters"]
        options["seed"] = list(range(seed, seed + len(questions.items)))
        found = measure(
            decoder,
            questions,
            record=record,
            setting=(model, str(policy), f"from {seed}"),
            batch_size=batch_size,
            on_done=on_done,
            **options,
        )
        yield found._replace(numbers=row | found.numbers)
