"""Policies side by side: the same checkpoint, the same problems, a row for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastedit.engine.settled import rule_of
from fastedit.evaluation.accuracy import BATCH, evaluate
from fastedit.policies import POLICIES, Confidence, Policy, parse

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
    """A row per policy, as soon as it is measured: so a run that is stopped keeps what it has.

    Arguments as of `evaluate`, whose numbers a row holds, beside `policy` as it was asked for,
    `parameters` as it decodes and `needs_training`. One that cannot run, with this checkpoint or
    these options, has the `reason` in place of numbers.

    seed: of rules that draw; each problem has its own, counted from this one.
    Raises ValueError and TypeError for options that no policy could run with.
    """
    first = task.messages(task.test_set(1)[0].question)
    decoder.stream(first, policy=Confidence(), **overrides)  # which goes with whatever can decode
    for policy in policies:
        options = overrides | {"policy": policy}
        row = policy.as_dict() | {"needs_training": policy.needs_training}
        try:
            decoder.stream(first, **options)  # checks, and decodes nothing
        except ValueError as error:
            yield row | {"reason": str(error)}
            continue
        used = rule_of(decoder.config.replace(**options), decoder.family)
        row["parameters"] = used.as_dict()["parameters"]
        options["seed"] = list(range(seed, seed + n))
        yield row | evaluate(decoder, task, n, batch_size=batch_size, on_done=on_done, **options)
