"""What the trainer asks of a training step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn


class Step(nn.Module):
    """A step is called with a batch and returns sums: `loss`, to be divided by what `settled` says,
    `labels`, `seen`, counts in a row, and `judged`, what a validation looks at as a whole.

    All that has a gradient lies inside `forward`, so DDP and FSDP see one forward per step: they
    wrap this module, not the model.
    """

    @property
    @abstractmethod
    def base(self) -> Any:
        """The model itself, adapters inside, without a wrapper around it."""

    @property
    @abstractmethod
    def trained(self) -> Any:
        """What is trained and saved."""

    @property
    @abstractmethod
    def seen_size(self) -> int:
        """Numbers in `seen`."""

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of the collator as `forward` takes it, made once all of a step are read."""
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
