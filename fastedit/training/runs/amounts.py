"""How long a run is and how fast it learns, where its options leave that to the data."""

from __future__ import annotations

from fastedit.training.runs.settings import LEARNING_RATES, RunOptions

STEPS, PASSES = 500, 20  # a small run has so many steps, and reads its data at most so often
# Of LoRA on a model of this width and at so many steps as above; the bounds are of any steps. It
# falls with the width as in "LoRA Without Regret" (Schulman et al., 2025), which has 5e-4 for
# LoRA, and a tenth of that where every weight trains.
LORA_RATE, SLOWEST, FASTEST, WIDTH, FALL = 5e-4, 1e-4, 1e-3, 2048, 0.78
OF_FULL = 0.1
HIGHEST = 1e-2


def together(options: RunOptions, packed: int) -> bool:
    """Whether documents share rows, of which there are `packed` then.

    Few rows make few steps: where the steps follow from the data, documents share rows only if that
    leaves enough of them.
    """
    if options.packing is not None:
        return options.packing
    return options.steps is not None or _passes(packed, options.batch_size) <= PASSES


def steps_of(rows: int, batch_size: int) -> tuple[int, int]:
    """(steps, how often they read all rows): at least `STEPS`, but for data that is too small."""
    passes = min(PASSES, _passes(rows, batch_size))
    return passes * _batches(rows, batch_size), passes


def learning_rate_of(options: RunOptions, steps: int, width: int) -> float:
    """The highest rate of a run; a shorter one needs a higher one, a narrower model too."""
    if options.learning_rate is not None:
        return options.learning_rate
    if options.head or options.edit.labels == "levenshtein":  # a head trains
        return LEARNING_RATES[options.head]
    rate = min(FASTEST, max(SLOWEST, LORA_RATE * (STEPS / steps) ** 0.5))
    rate = min(HIGHEST, rate * (WIDTH / width) ** FALL)
    return float(f"{rate if options.lora_rank else OF_FULL * rate:.2g}")


def _passes(rows: int, batch_size: int) -> int:
    return -(-STEPS // _batches(rows, batch_size))


def _batches(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)
