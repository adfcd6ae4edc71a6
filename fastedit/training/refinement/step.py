"""One training step of ME-DLM: masks with labels of both heads, and edits of drafts of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastedit.heads import NextTokenHead
from fastedit.models.families import Family
from fastedit.ops.edit_labels import UNLABELLED
from fastedit.policies import MEDLM
from fastedit.training.base import Step
from fastedit.training.loss.head import (
    likelihoods,
    readable,
    vocabulary,
    weighted_cross_entropy,
)
from fastedit.training.noise.draws import RATE, SAMPLE, Draws
from fastedit.training.noise.schedule import Schedule
from fastedit.training.options import NOISE, W_MAX, EditOptions
from fastedit.training.passes.layout import Tokens
from fastedit.training.passes.passes import Whole
from fastedit.training.passes.sharing import without_dropout
from fastedit.training.reading import Reading
from fastedit.training.refinement.checks import check_ids, check_reading
from fastedit.training.refinement.counts import (
    SEEN,
    Judged,
    RefinementOutput,
    drafted_rows,
    operations,
    report,
)
from fastedit.training.refinement.edits import EditStage
from fastedit.training.refinement.options import RefinementOptions
from fastedit.training.refinement.rollouts import Begun, Rollout, drafted
from fastedit.training.refinement.rows import Answers, mask_labels, masked, read_answers

# The device -> labels of both heads, for the rows of the edit stage.
Labels = Callable[[torch.device], tuple[Tensor, Tensor]]


class RefinementStep(Step):
    """The training step of `model` and of `head`, its second head, which predicts the next token.

    A row is in the mask stage, or with t2t="self" the share `draft_share` of them in the edit
    stage: its answers are drafted by the model itself, and both heads learn what would turn the
    drafts into the data. Drafts are made in `prepared`, without gradient; their labels on the CPU,
    while the device computes what they are labels of.

    model       one with full attention and no shift, with a trunk `model` and a head `lm_head`; or
                such a one wrapped by peft
    options     `t2t`, `draft_share`, `noise`, `mask_weight` and `w_max` are read; rates are of rows
    the ids     of the mask, of what deletes, ends and pads an answer; the last two may be the same

    `seconds` says what the host spent on drafts and labels.
    Source: arXiv 2605.09603; renhouxing/ME-DLM, `utils/edit_trainer.py`. Raises ValueError where
    these do not go together.
    """

    _labelling = _drafting = 0.0  # seconds of the host, since `seconds` was asked

    def __init__(
        self,
        model: Any,
        head: NextTokenHead,
        options: EditOptions,
        refinement: RefinementOptions,
        *,
        seed: int,
        mask_token_id: int,
        delete_token_id: int,
        eos_token_id: int,
        pad_token_id: int,
        family: Family | None = None,
    ) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.reading = Reading.of(self.base, family)
        check_reading(self.reading)
        head.check_base(self.base.config)
        self.options = options = options.for_attention(self.reading.attention)
        self.schedule = Schedule.parse(options.noise or NOISE)
        if self.schedule.per_block:
            raise ValueError(f"noise={options.noise!r}: a row has one mask rate here, not a block")
        named = {"mask": mask_token_id, "delete": delete_token_id, "eos": eos_token_id}
        check_ids(named | {"pad": pad_token_id}, vocabulary(self.base.lm_head))
        self.refinement, self.seed = refinement, seed
        self.mask_token_id, self.eos_token_id = mask_token_id, eos_token_id
        self.delete_token_id, self.pad_token_id = delete_token_id, pad_token_id
        same = pad_token_id == eos_token_id
        # The released trainer, unlike its decoder, writes no EOS behind a draft; where the padding
        # is the EOS, there would be none left.
        rule = Rollout(
            delete_token_id=delete_token_id,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id if same else None,
        )
        self.edits = EditStage(rule, mask_token_id, eos_token_id, refinement)

    @property
    def trained(self) -> Any:
        return self.model

    @property
    def beside(self) -> NextTokenHead:
        return self.head

    @property
    def policy(self) -> MEDLM:
        return MEDLM(
            delete_token_id=self.delete_token_id,
            pad_token_id=self.pad_token_id,
            eos_token_id=self.eos_token_id,
        )

    @property
    def seen_size(self) -> int:
        return SEEN

    @torch.no_grad()
    def prepared(self, batch: dict[str, Any], done: float | None = None) -> dict[str, Any]:
        """Rows of both stages with the labels of both heads, as `forward` takes them.

        batch  as of `Collator`
        """
        example, positions = batch["example"], batch["positions"]
        draws = Draws(self.seed, batch["epoch"], example, positions)
        answers = read_answers(
            batch["input_ids"],
            batch["response"],
            positions,
            example,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.pad_token_id,
        )
        (rate, share_done), (stage, fills) = (
            (first[:, 0], second[:, 0])
            for first, second in (draws.per_document(kind, 0) for kind in (RATE, SAMPLE))
        )
        rate = self.schedule.rates(rate)
        masks = masked(answers, draws, rate, first=self.refinement.mask_first)
        current, following = mask_labels(answers.clean, masks)
        rows = {
            "ids": answers.clean.masked_fill(masks, self.mask_token_id),
            "positions": positions,
            "document": example,
            "where": (current != UNLABELLED) | (following != UNLABELLED),
        }
        edited = (example[:, 0] >= 0) & (stage < self.options.draft_share)
        if self.options.t2t != "self":
            edited = torch.zeros_like(edited)
        most = self.refinement.edit_steps
        drawn = (share_done * most).long()
        steps = drawn if done is None else torch.full_like(drawn, int(done * most))
        labels = None
        if bool(edited.any()):
            choice = self.refinement.fills
            counts = [choice[n] for n in (fills[edited] * len(choice)).long().tolist()]
            own = steps[edited].tolist()
            made, labels = self._edited(answers, masks, draws, edited, counts, own)
            for name, values in made.items():
                rows[name] = rows[name].masked_scatter(edited[:, None], values.to(example.device))
        return {
            **rows,
            "current": current,
            "following": following,
            "labels": labels,
            "rate": rate,
            "edited": edited,
            "steps": steps,
            "example": example,
        }

    def _edited(
        self,
        answers: Answers,
        masks: Tensor,
        draws: Draws,
        edited: Tensor,
        counts: list[int],
        steps: list[int],
    ) -> tuple[dict[str, Tensor], Labels]:
        """The rows `edited` [B] with drafts in place of answers, on the CPU, and their labels."""
        began, length = time.perf_counter(), answers.clean.shape[1]
        rows = self.edits.begin(answers, masks, draws, edited, counts, steps)
        found = iter(self._drafted([text.begun for row in rows for text in row], edited.device))
        drafts = [[next(found) for _ in row] for row in rows]
        made = self.edits.rows(rows, drafts, length)
        self._drafting += time.perf_counter() - began

        def labels(device: torch.device) -> tuple[Tensor, Tensor]:
            began = time.perf_counter()
            current, following = self.edits.labels(rows, drafts, length)
            self._labelling += time.perf_counter() - began
            return current.to(device), following.to(device)

        return made, labels

    def _drafted(self, begun: list[Begun], device: torch.device) -> list[Tensor]:
        head = self.base.lm_head

        def heads(ids: Tensor, lengths: Tensor, wants: bool) -> tuple[Tensor, Tensor | None]:
            place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            document = torch.where(place < lengths[:, None], 0, -1)
            passes = Whole(self.base.model, Tokens(document, document, place), self.reading)
            hidden = passes.hidden(ids, torch.ones_like(ids, dtype=torch.bool))
            hidden = hidden.view(*ids.shape, -1)
            second = self.head(self._read(hidden)) if wants else None
            return readable(head(hidden)), None if second is None else readable(second)

        with without_dropout(self.model):
            vocab = vocabulary(head)
            return drafted(
                begun, heads, mask_token_id=self.mask_token_id, vocab=vocab, device=device
            )

    def _read(self, hidden: Tensor) -> Tensor:
        """Hidden states as the second head takes them, which is wider than a model in bfloat16."""
        return hidden.to(self.head.out.weight.dtype)

    def count(self, batch: dict[str, Any]) -> Tensor:
        """Rows that hold a document."""
        return (batch["example"][:, 0] >= 0).sum()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        document: Tensor,
        where: Tensor,
        current: Tensor,
        following: Tensor,
        labels: Labels | None,
        rate: Tensor,
        edited: Tensor,
        steps: Tensor,
        example: Tensor,
    ) -> RefinementOutput:
        """Loss and counts of a prepared batch.

        ids, positions, document [B, L] int64; where [B, L] bool, what may have a label
        current, following  [B, L] int64  labels of the mask stage
        labels  those of the rows `edited` [B] bool, made while the device is at work; None: no such
        rate [B] fp32, steps [B] int64
        """
        rows = Tokens(document, document, positions)
        hidden = Whole(self.base.model, rows, self.reading).hidden(ids, where)
        if labels is not None:
            current, following = (
                mine.masked_scatter(edited[:, None], own)
                for mine, own in zip((current, following), labels(ids.device), strict=True)
            )
        weight = torch.ones_like(rate)
        if self.options.mask_weight == "1/t":
            weight = (1.0 / rate).clamp(max=self.options.w_max or W_MAX)
        in_row = where.nonzero()[:, 0]
        # The labels of the token behind each, which the second head is to differ from to insert.
        behind = torch.nn.functional.pad(current[:, 1:], (0, 1), value=UNLABELLED)
        heads = (self.base.lm_head, hidden, ids), (self.head.out, self._read(hidden), behind)
        loss, judged = torch.zeros((), device=ids.device), []
        for wanted, (head, states, held) in zip((current, following), heads, strict=True):
            has, many = wanted[where] != UNLABELLED, (wanted != UNLABELLED).sum(1)
            own, row = wanted[where][has], in_row[has]
            weights = (weight / many.clamp(min=1))[row]
            loss = loss + weighted_cross_entropy(states[has], head, own, weights)
            never = (self.mask_token_id,)
            token, *probs = likelihoods(states[has].detach(), head, own, never)
            judged.append(Judged(token, own, held[where][has], edited[row], *probs))
        found = self.count({"example": example})
        in_edits = (edited & (example[:, 0] >= 0)).sum()
        numbers = torch.stack([found - in_edits, in_edits, (steps * edited).sum()])
        tau = self.options.turn_editing_threshold
        edits = operations(judged[0], judged[1], tau, self.delete_token_id)
        seen = [edits, *(each.numbers() for each in judged), numbers]
        return RefinementOutput(loss, found, torch.cat([part.double() for part in seen]))

    def seconds(self) -> dict[str, float]:
        spent = {"labels": self._labelling, "drafts": self._drafting}
        self._labelling = self._drafting = 0.0
        return spent

    def advice(self, seen: list[float]) -> str | None:
        edited, labels = drafted_rows(seen)
        if labels or not edited:
            return None
        return (
            f"none of the {edited:,.0f} rows that were drafted holds an answer that ends with id "
            f"{self.eos_token_id}, so no edit was taught: raise --max-length where answers were "
            "cut off, or name what ends them, --set refinement.eos_token_id=ID"
        )

    def report(self, seen: list[float]) -> dict[str, float | None]:
        """See `counts.report`."""
        return report(seen)
