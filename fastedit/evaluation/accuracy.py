"""How often answers are right, and how few forwards they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastedit.evaluation.answers import BATCH, Answer, Record, Setting, decode
from fastedit.evaluation.scorers import ScorerError
from fastedit.evaluation.tuning.questions import Questions, of_task

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.tasks import Task


class Measured(NamedTuple):
    """Numbers for JSON, and which questions were answered right."""

    numbers: dict[str, Any]
    right: list[bool]


def evaluate(
    decoder: Decoder,
    task: Task,
    n: int,
    *,
    batch_size: int = BATCH,
    on_done: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> dict[str, Any]:
    """Decode the first n held-out problems of `task` and score them; a dictionary for JSON.

    Arguments as of `measure`, whose numbers these are. Raises ValueError and TypeError for bad
    options, and what `Decoder.as_completed` raises.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")
    questions = of_task(task, n)
    return measure(decoder, questions, batch_size=batch_size, on_done=on_done, **overrides).numbers


def measure(
    decoder: Decoder,
    questions: Questions,
    *,
    record: Record | None = None,
    setting: Setting = ("", "", ""),
    batch_size: int = BATCH,
    on_done: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> Measured:
    """Decode the questions and score the answers.

    record      answers of earlier runs, and of this one, under `setting`
    batch_size  questions that decode together: one that ends makes room for the next;
                on_done(k) is called when k more have ended
    overrides   options of `DecodeConfig`

    accuracy is the share of exact answers, interval its 95 % Wilson interval, partial_credit the
    scorer's mean. Ratios are of sums over all questions. seconds hold decoding alone: loading,
    scoring and one untimed question at the start are left out. A failed request counts as wrong,
    and so does an answer that a scorer of the user's fails on: unscored, with the first of its
    messages. truncated: answers that max_new_tokens cut off. block_forwards: as `DecodeStats` has
    them. Raises ValueError and TypeError for bad options, and what `Decoder.as_completed` raises.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    answers = decode(
        decoder,
        questions,
        Record() if record is None else record,
        setting,
        batch_size=batch_size,
        on_done=on_done,
        **overrides,
    )
    return summary(questions, answers, batch_size)


def summary(questions: Questions, answers: Sequence[Answer], batch_size: int) -> Measured:
    """The numbers of `measure`, of answers to all questions in their order."""
    right, credits, messages, n = list[bool](), list[float](), list[str](), len(answers)
    for question, answer in zip(questions.items, answers, strict=True):
        exact, credit = False, 0.0
        if answer.text is not None:
            try:
                exact, credit = questions.score(answer.text, question)
            except ScorerError as error:
                messages.append(f"{question.where}: {error}")
        right.append(exact)
        credits.append(credit)
    names = ("tokens", "forwards", "block_forwards", "t2t_edits", "remasks", "seconds")
    tokens, forwards, block_forwards, edits, remasks, seconds = (
        sum(getattr(answer, name) for answer in answers) for name in names
    )
    solved = sum(right)
    numbers = {
        **questions.named(),
        "n": n,
        "exact": solved,
        "accuracy": solved / n,
        "interval": list(wilson_interval(solved, n)),
        "partial_credit": sum(credits) / n,
        "tokens": tokens,
        "forwards": forwards,
        "block_forwards": block_forwards,
        "edits": edits,
        "remasks": remasks,
        "failed": sum(answer.error is not None for answer in answers),
        "truncated": sum(answer.finish_reason == "length" for answer in answers),
        "unscored": len(messages),
        "unscored_because": messages[0] if messages else None,
        "tokens_per_forward": tokens / forwards if forwards else 0.0,
        "edits_per_100_tokens": 100.0 * edits / tokens if tokens else 0.0,
        "remasks_per_100_tokens": 100.0 * remasks / tokens if tokens else 0.0,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "seconds": seconds,
        "batch_size": batch_size,
    }
    return Measured(numbers, right)


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default; inside [0, 1], also at 0 and n."""
    share = successes / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
