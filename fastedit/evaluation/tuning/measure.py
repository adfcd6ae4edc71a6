"""One setting of a policy on some of the questions: right answers and forwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from fastedit.evaluation.accuracy import wilson_interval
from fastedit.evaluation.answers import BATCH, askable, prompt_of
from fastedit.evaluation.tuning.questions import Question, Questions
from fastedit.files.jsonl import BadLines

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.policies import Policy


@dataclass(frozen=True)
class Tally:
    """Sums over n questions. forwards: `DecodeStats.forwards`, without prefill; failed requests
    count as wrong; truncated: answers that max_new_tokens cut off."""

    n: int = 0
    right: int = 0
    forwards: int = 0
    tokens: int = 0
    edits: int = 0
    remasks: int = 0
    failed: int = 0
    truncated: int = 0

    @classmethod
    def sum(cls, tallies: Iterable[Tally]) -> Tally:
        parts = list(tallies)
        return cls(*(sum(getattr(t, field.name) for t in parts) for field in fields(cls)))

    @property
    def point(self) -> tuple[int, int]:
        """(quality, cost), of `pareto`: comparable between settings on the same questions."""
        return self.right, self.forwards

    def report(self) -> dict[str, Any]:
        """For JSON: the sums, their ratios and the 95 % Wilson interval of the right answers."""
        return asdict(self) | {
            "accuracy": self.right / self.n,
            "interval": list(wilson_interval(self.right, self.n)),
            "forwards_per_answer": self.forwards / self.n,
            "tokens_per_forward": self.tokens / self.forwards if self.forwards else 0.0,
        }


class Measure:
    """A decoder, what it is asked, how many at once, and the seed of all draws."""

    def __init__(
        self, decoder: Decoder, questions: Questions, *, batch_size: int = BATCH, seed: int = 0
    ) -> None:
        self.decoder, self.questions = decoder, questions
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, policy: Policy, items: list[Question]) -> Tally:
        """Decode these questions; raises what `Decoder.as_completed` raises."""
        prompts = [prompt_of(self.decoder, self.questions, item) for item in items]
        tallies = []
        for result in self.decoder.as_completed(
            prompts, policy=policy, max_batch=self.batch_size, seed=self.seed
        ):
            stats, text = result.stats, result.text
            tallies.append(
                Tally(
                    n=1,
                    right=text is not None and self.questions.right(text, items[result.index]),
                    forwards=stats.forwards,
                    tokens=stats.tokens,
                    edits=stats.t2t_edits,
                    remasks=stats.remasks,
                    failed=result.error is not None,
                    truncated=stats.finish_reason == "length",
                )
            )
        return Tally.sum(tallies)

    def takes(self, policy: Policy) -> bool:
        """Whether the model can be decoded with it at all; nothing is decoded."""
        try:
            self._check(self.questions.items[0], policy)
        except ValueError:
            return False
        return True

    def checked(self, policy: Policy, bad: BadLines) -> list[Question]:
        """The questions that can be decoded; what is wrong with the others goes to `bad`.

        Raises ValueError and TypeError where the policy or an option is refused.
        """
        return askable(self.decoder, self.questions, bad, policy=policy).items

    def _check(self, item: Question, policy: Policy) -> None:
        # Checks prompt and options; nothing runs until the first event is asked for.
        self.decoder.stream(prompt_of(self.decoder, self.questions, item), policy=policy)
