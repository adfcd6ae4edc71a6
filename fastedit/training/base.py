"""What the trainer asks of a training step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from fastedit.heads.base import Head
from fastedit.policies import Policy


class Step(nn.Module):
    """A step is called with a batch and returns sums: `loss`, to be divided by what `settled` says,
    `labels`, `seen`, counts in a row, and `judged`, what a validation looks at as a whole.

    All that has a gradient lies inside `forward`, so DDP and FSDP see one forward per step: they
    wrap this module, not the model.
    """

    model: Any  # wrapped by peft, or not

    @property
    def base(self) -> Any:
        """The model itself, adapters inside, without a wrapper around it."""
        unwrap = getattr(self.model, "get_base_model", None)
        return self.model if unwrap is None else unwrap()

    @property
    @abstractmethod
    def trained(self) -> Any:
        """What is trained and saved."""

    @property
    @abstractmethod
    def seen_size(self) -> int:
        """Numbers in `seen`."""

    @property
    def policy(self) -> Policy | None:
        """The rule by which examples are decoded; None: that of the family."""
        return None

    @property
    def beside(self) -> Head | None:
        """A head that is trained with it, and saved in a folder of its own."""
        return None

    def prepared(self, batch: dict[str, Any], done: float | None = None) -> dict[str, Any]:
        """A batch of the collator as `forward` takes it, made once all of a step are read.

        done  share of the steps of the run that are done; None: it is a batch of a validation
        """
        return batch

    @abstractmethod
    def count(self, batch: dict[str, Any]) -> Tensor:
        """Counts of a prepared batch that add up over a step, int64; what they are is its own."""

    def settled(
        self, batches: list[dict[str, Any]], counts: Tensor
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """The prepared batches of a step, told what follows from the counts of all of it, and what
        its summed losses are divided by, []."""
        return batches, counts

    @abstractmethod
    def report(self, seen: list[float]) -> dict[str, float | None]:
        """Rates of summed `seen`; None where nothing was counted."""

    def advice(self, seen: list[float]) -> str | None:
        """What to change, where the `seen` of a whole run says that nothing could be learnt."""
        return None

    def seconds(self) -> dict[str, float]:
        """Time that the host spent on parts of the step, by name, since this was last asked."""
        return {}

    def report_judged(self, judged: list[Any]) -> dict[str, float | None]:
        """Metrics of what all batches of a validation judged."""
        return {}
