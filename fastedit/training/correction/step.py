"""One training step of a correction head: the frozen model errs, and the head is to find where."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastedit.heads import CorrectionHead
from fastedit.models.families import Family
from fastedit.ops.draft_and_corrupt import EDIT, DraftOptions
from fastedit.training.base import Step
from fastedit.training.correction.detection import detection
from fastedit.training.correction.loss import error_weight, weighted_sum
from fastedit.training.correction.options import CorrectionOptions
from fastedit.training.correction.samples import Judged, draw_masks, judge, units
from fastedit.training.loss.head import predictions, vocabulary
from fastedit.training.noise.drafts import decide, logits_of
from fastedit.training.noise.draws import Draws
from fastedit.training.passes.layout import Tokens
from fastedit.training.passes.passes import Passes, frozen_passes
from fastedit.training.reading import Reading

SEEN = 6  # numbers in `CorrectionOutput.seen`


class CorrectionOutput(NamedTuple):
    """Sums over the judged positions of a batch; they add up over batches and ranks.

    loss     fp32 []     weighted losses with gradient; divide by the divisor of the whole step
    labels   int64 []    judged positions
    seen     int64 [6]   right ones, wrong ones, wrong and right ones with an error probability
                         above 1/2, tokens that were written, and those of them that are wrong
    judged   fp32 and bool [N]   logits, and whether the token is wrong
    """

    loss: Tensor
    labels: Tensor
    seen: Tensor
    judged: tuple[Tensor, Tensor]


class CorrectionStep(Step):
    """The training step of `head` on `model`, one with a trunk `model` and a head `lm_head`.

    The model is frozen and in eval mode; its two passes, one that writes tokens and one that reads
    them, run in `prepared`, without gradient.

    options        settled, see `CorrectionOptions.settled`
    mask_token_id  the mask
    family         how the model reads its rows; None: what it is known as

    Raises ValueError where options or head do not go with the model.
    """

    def __init__(
        self,
        model: Any,
        head: CorrectionHead,
        options: CorrectionOptions,
        *,
        seed: int,
        mask_token_id: int,
        family: Family | None = None,
    ) -> None:
        super().__init__()
        head.check_base(model.config)
        self.reading = Reading.of(model, family)
        self.block = head.config.input_of(len(model.model.layers))
        self.model, self.head = model.requires_grad_(False).eval(), head
        self.options, self.seed = options, seed
        self.drafts = DraftOptions(
            mask_token_id, options.ban or (), options.tokens, options.temperature, p_random=0.0
        )
        self.drafts.settings(vocabulary(model.lm_head))  # raises

    @property
    def trained(self) -> CorrectionHead:
        return self.head

    @property
    def seen_size(self) -> int:
        return SEEN

    def train(self, mode: bool = True) -> CorrectionStep:
        """The head alone."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def prepared(self, batch: dict[str, Any], done: float | None = None) -> dict[str, Any]:
        """n canvases of m tokens, each of which the head reads by itself, as `forward` takes them.

        batch  as of `Collator`
        """
        clean, example = batch["input_ids"], batch["example"]
        draws = Draws(self.seed, batch["epoch"], example, batch["positions"])
        rows = Tokens.of_rows(example, draws.position, self.reading.block_size)
        passes = frozen_passes(self.model.model, clean, rows, self.reading)
        judged = self._judged(clean, batch["response"], draws, passes)
        found = passes.inside(judged.ids, judged.scope, self.block)
        return {
            "states": found.states,
            "positions": found.position,
            "mask": found.mask,
            "scope": judged.scope.flatten()[found.place],
            "errors": judged.errors.flatten()[found.place],
            "written": torch.stack([judged.written.sum(), (judged.written & judged.errors).sum()]),
            "example": example,
        }

    def _judged(self, clean: Tensor, response: Tensor, draws: Draws, passes: Passes) -> Judged:
        """What the model writes into x_more, and what is asked about it."""
        options, mask = self.options, self.drafts.mask_token_id
        masks = draw_masks(draws, response, options, self.reading.block_size)
        where, head = masks.more, self.model.lm_head
        ids = clean.masked_fill(where, mask)
        hidden = passes.hidden(ids, where)
        key, vocab = draws.draft_key(where, 0), vocabulary(head)
        found = decide(logits_of(hidden, head), ids[where], clean[where], self.drafts, key, vocab)
        sure = found.p_draft
        if options.confidence == "best":
            _, sure = predictions(hidden, head, ids[where], mask)
        sure = sure.masked_fill(found.kinds != EDIT, -1.0)  # bad logits: nothing was written
        confidence = torch.zeros_like(clean, dtype=torch.float32).masked_scatter(where, sure)
        tokens = ids.masked_scatter(where, found.z)
        group = units(draws, str(options.unit), self.reading.block_size)
        return judge(clean, response, group, masks, tokens, confidence, options, mask)

    def count(self, batch: dict[str, Any]) -> Tensor:
        """Judged positions that are right and wrong, int64 [2]."""
        wrong = (batch["errors"] & batch["scope"]).sum()
        return torch.stack([batch["scope"].sum() - wrong, wrong])

    def settled(
        self, batches: list[dict[str, Any]], counts: Tensor
    ) -> tuple[list[dict[str, Any]], Tensor]:
        weight, divisor = error_weight(counts, self.options)
        return [batch | {"error_weight": weight.float()} for batch in batches], divisor

    def forward(
        self,
        states: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        scope: Tensor,
        errors: Tensor,
        written: Tensor,
        example: Tensor,
        error_weight: Tensor | float = 1.0,
    ) -> CorrectionOutput:
        """Loss and counts of a prepared batch; without `error_weight` all weights are 1."""
        logits, wrong = self.head(states, mask, positions)[scope], errors[scope]
        loss = weighted_sum(logits, wrong, error_weight)
        alarm = logits.detach() > 0
        each = (~wrong, wrong, alarm & wrong, alarm & ~wrong)
        seen = torch.cat([torch.stack([rows.sum() for rows in each]), written])
        return CorrectionOutput(loss, scope.sum(), seen, (logits.detach(), wrong))

    def report(self, seen: list[float]) -> dict[str, float | None]:
        """
        | name | share of | that |
        |---|---|---|
        | error_share | judged positions | are wrong |
        | recall_half | wrong ones | have an error probability above 1/2 |
        | false_alarms_half | right ones | have |
        | draft_error_rate | tokens that the model wrote | are wrong |
        """
        right, wrong, found, alarms, written, written_wrong = seen
        return {
            "error_share": _share(wrong, right + wrong),
            "recall_half": _share(found, wrong),
            "false_alarms_half": _share(alarms, right),
            "draft_error_rate": _share(written_wrong, written),
        }

    def advice(self, seen: list[float]) -> str | None:
        _, wrong, _, _, written, _ = seen
        if wrong:
            return None
        return (
            f"none of the {written:,.0f} tokens that the model drafted was wrong, so the head has "
            "learnt to trust everything: draft more of a block at once (--set "
            "correction.candidates=extra --set correction.delta_t=0.5 --set correction.count=32), "
            "or train on questions that the model answers wrongly"
        )

    def report_judged(self, judged: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
        """See `detection`."""
        logits, errors = (np.concatenate(parts) for parts in zip(*judged, strict=True))
        found = detection(logits, errors)
        return {name: None if math.isnan(value) else value for name, value in found.items()}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
