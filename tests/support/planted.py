"""A small language of which the context tells every token, and wrong tokens planted in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastedit.models.families import Family
from fastedit.training.loss.metrics import rates
from fastedit.training.options import EditOptions
from fastedit.training.step import EditStep

PERIOD, REPEATS, LETTERS, ROWS = 4, 4, 16, 64
HELD_OUT = 1 << 20  # index of the first held-out document
# Visible wrong tokens in a tenth of the response, and no masks.
PLANTED = EditOptions(t2t="random", noise="fixed(0)", r_edit=0.1)


def documents(first: int, ids: Tensor) -> dict[str, Tensor]:
    """A batch of documents, from number `first` on: four letters of `ids`, the prompt, again and
    again."""
    generator = torch.Generator().manual_seed(first)
    letters = torch.randint(LETTERS, (ROWS, PERIOD), generator=generator)
    clean = ids[letters].repeat(1, 1 + REPEATS)
    place = torch.arange(clean.shape[1]).expand_as(clean)
    example = torch.arange(first, first + ROWS)[:, None].expand_as(clean)
    return {
        "input_ids": clean,
        "response": place >= PERIOD,
        "positions": place,
        "example": example,
    }


class Study:
    """Trains a model on the language and counts what it makes of planted errors.

    Letters are ids 2 to 17; options are those of the step.
    """

    def __init__(self, model: Any, family: Family, **options: Any) -> None:
        self.model = model
        self.ids = torch.arange(2, 2 + LETTERS)
        settings: dict[str, Any] = {
            "seed": 0,
            "mask_token_id": 1,
            "forbid_ids": [0, 1, *range(2 + LETTERS, model.lm_head.out_features)],
            "family": family,
        }
        self.step = EditStep(model, EditOptions(**options), **settings)
        self.planted = EditStep(model, PLANTED, **settings)

    def train(self, steps: int, rate: float = 3e-3) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        warm = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps, pct_start=0.1
        )
        self.model.train()
        for number in range(steps):
            output = self.step(**documents(number * ROWS, self.ids), measure=False)
            (output.loss / output.labels).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            warm.step()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Shares of planted errors that are repaired and of right tokens that are changed, both
        with a probability above the editing threshold of .5; over some 400 and 3700 tokens."""
        self.model.eval()
        seen = [self.planted(**documents(HELD_OUT + n * ROWS, self.ids)).tally for n in range(4)]
        tally = type(seen[0])(*(sum(fields) for fields in zip(*seen, strict=True)))
        found = rates(tally)
        return {
            "repaired": found["edit_accuracy_tau"],
            "false edits": found["false_edit_rate_tau"],
            "planted": int(tally.counts[1]),
        }
