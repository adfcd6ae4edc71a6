"""Answers to questions, as they were decoded: kept, so that none is decoded twice."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastedit.chats.template import as_user
from fastedit.evaluation.resumed import Layout, Resumed
from fastedit.evaluation.scorers import SCORERS
from fastedit.evaluation.tuning.questions import Question, Questions
from fastedit.files.jsonl import BadLines

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.results import Result

BATCH = 32  # what the engine runs at once
Setting = tuple[str, str, str]  # the model, the policy and the seeds, as texts


@dataclass(frozen=True)
class Answer:
    """What was decoded for question `index`. seconds: since the answer before it.

    A request that failed has an `error` and no text. The other fields are those of `DecodeStats`.
    """

    index: int
    text: str | None
    error: str | None
    finish_reason: str | None
    tokens: int
    forwards: int
    block_forwards: int
    t2t_edits: int
    remasks: int
    seconds: float

    @classmethod
    def of(cls, result: Result, index: int, seconds: float) -> Answer:
        stats = result.stats
        error = None if result.error is None else str(result.error)
        return cls(
            index,
            result.text,
            error,
            stats.finish_reason,
            tokens=stats.tokens,
            forwards=stats.forwards,
            block_forwards=stats.block_forwards,
            t2t_edits=stats.t2t_edits,
            remasks=stats.remasks,
            seconds=seconds,
        )


class Record(Resumed):
    """Answers by setting and question. Those that are added while it is `open` stand in the
    folder before `add` returns."""

    layout = Layout(
        "eval.json",
        "answers.jsonl",
        ("report.json", "accuracy.png", "accuracy.svg"),
        "an evaluation",
        "evaluated",
    )

    def __init__(self) -> None:
        self._answers: dict[Setting, dict[int, Answer]] = defaultdict(dict)
        self._asked: dict[Setting, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._answers.values()))

    def of(self, setting: Setting) -> dict[int, Answer]:
        """What there is, by the index of the question."""
        self._asked[setting] = None
        return self._answers[setting]

    def asked(self) -> Iterator[Collection[Answer]]:
        """The answers of each setting that `of` was asked for."""
        return (self._answers[setting].values() for setting in self._asked)

    def add(self, setting: Setting, answer: Answer) -> None:
        named = zip(("model", "policy", "seeds"), setting, strict=True)
        self._keep({**dict(named), **asdict(answer)})
        self._answers[setting][answer.index] = answer

    def _take(self, line: dict[str, Any]) -> None:
        model, policy, seeds = (line.pop(name) for name in ("model", "policy", "seeds"))
        answer = Answer(**line)
        self._answers[model, policy, seeds][answer.index] = answer


def decode(
    decoder: Decoder,
    questions: Questions,
    record: Record,
    setting: Setting,
    *,
    batch_size: int = BATCH,
    on_done: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> list[Answer]:
    """The answers to all questions; those that `record` has of `setting` are not decoded again.

    batch_size  questions that decode together: one that ends makes room for the next;
                on_done(k) is called when k more have ended
    overrides   options of `DecodeConfig`; a list of seeds has one for each question

    One untimed question at the start makes first calls allocate and compile. Raises what
    `Decoder.as_completed` raises.
    """
    known = record.of(setting)
    left = [number for number in range(len(questions.items)) if number not in known]
    on_done(len(known))
    if left:
        prompts = [prompt_of(decoder, questions, questions.items[number]) for number in left]
        options = {**overrides, "max_batch": batch_size}
        if isinstance(seeds := options.get("seed"), list):
            options["seed"] = [seeds[number] for number in left]
        first = options | ({"seed": options["seed"][:1]} if isinstance(seeds, list) else {})
        list(decoder.as_completed(prompts[:1], **first))
        decoder.close()  # nothing that an evaluation before this one computed is used
        last = time.perf_counter()
        for result in decoder.as_completed(prompts, **options):
            now = time.perf_counter()
            record.add(setting, Answer.of(result, left[result.index], now - last))
            last = now
            on_done(1)
    return [known[number] for number in range(len(questions.items))]


def right_by(scorer: str, questions: Questions, record: Record) -> tuple[int, int]:
    """How many answers of this run the scorer, one of `SCORERS`, calls right; and of how many."""
    pairs = [
        (answer.text, questions.items[answer.index].answer)
        for answers in record.asked()
        for answer in answers
        if answer.text is not None
    ]
    return sum(itertools.starmap(SCORERS[scorer], pairs)), len(pairs)


def prompt_of(decoder: Decoder, questions: Questions, item: Question) -> Any:
    """What the decoder is asked."""
    return as_user(item.prompt, decoder.tokenizer, questions.raw)


def askable(decoder: Decoder, questions: Questions, bad: BadLines, **options: Any) -> Questions:
    """Those questions that can be decoded; what is wrong with the others goes to `bad`.

    Nothing is decoded. Raises ValueError and TypeError where an option is refused.
    """
    found = []
    for item in questions.items:
        try:
            decoder.stream(prompt_of(decoder, questions, item), **options)
        except (ValueError, TypeError) as error:
            if not str(error).startswith("prompt 0"):
                raise
            bad.add(item.where, str(error).removeprefix("prompt 0").lstrip(": "))
        else:
            found.append(item)
    return questions._replace(items=found)
