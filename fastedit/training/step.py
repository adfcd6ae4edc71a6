"""One training step of token editing: corrupt, draft, and supervise, in one forward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastedit.models.families import Family
from fastedit.training.base import Step
from fastedit.training.control import ControlTokens
from fastedit.training.loss.head import (
    entropy_of_right,
    predictions,
    vocabulary,
    weighted_cross_entropy,
)
from fastedit.training.loss.metrics import SEEN, kinds_of, no_tally, report, tally
from fastedit.training.loss.operations import (
    OPERATIONS,
    no_operations,
    report_operations,
    tally_operations,
)
from fastedit.training.loss.weights import confident_rows, denominator, position_weights
from fastedit.training.noise.corruption import Noisy, corrupt
from fastedit.training.noise.drafts import (
    Logits,
    decoding_step,
    fill_with_drafts,
    logits_of,
    masks_to_draft,
    no_drafts,
    unread,
)
from fastedit.training.noise.draws import Draws
from fastedit.training.options import EditOptions
from fastedit.training.output import StepOutput, total
from fastedit.training.passes.layout import Tokens
from fastedit.training.passes.passes import Passes, passes_over
from fastedit.training.passes.sharing import why_not_shared, without_dropout
from fastedit.training.reading import Reading

# A noisy copy of a batch, and how many drafts and wrong drafts were made for it, see
# `drafts.fill_with_drafts`.
Round = tuple[Noisy, Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """Rows as the collator makes them, and their random numbers."""

    clean: Tensor
    response: Tensor
    draws: Draws

    @property
    def example(self) -> Tensor:
        return self.draws.example


class EditStep(Step):
    """The training step around `model`: one with a trunk `model` and a head `lm_head`, as
    `LLaDA2MoeModelLM` and the classes of transformers have them, or such a one wrapped by peft.

    options        what is not given is as models of the family were trained (`for_attention`)
    seed           of the run; noise is a function of (seed, epoch, example, position) alone
    mask_token_id  the mask
    forbid_ids     ids that are never random wrong tokens, such as special ids
    family         how the model reads its rows; None: what it is known as
    control        what deletes and inserts, for labels that say so; never a draft or a wrong token

    All passes of a step lie inside `forward`. Raises ValueError where options and model do not go
    together.
    """

    candidates: Tensor

    def __init__(
        self,
        model: Any,
        options: EditOptions,
        *,
        seed: int,
        mask_token_id: int,
        forbid_ids: Sequence[int] = (),
        family: Family | None = None,
        control: ControlTokens | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.reading = Reading.of(self.base, family)
        options = options.for_attention(self.reading.attention)
        if control is None and options.labels != "plain":
            raise ValueError(f"labels={options.labels} need control tokens, and there are none")
        self.control, said = control, control.ids if control else ()
        if said:
            options = replace(options, draft_forbid=(*options.draft_forbid, *said))
        self.options = options
        self.turns = options.turns or 1
        self.seed, self.mask_token_id = seed, mask_token_id
        vocab = self.vocab
        if not 0 <= mask_token_id < vocab:
            raise ValueError(
                f"mask_token_id {mask_token_id} is outside the vocabulary [0, {vocab})"
            )
        if options.draft_adapter == "off" and not hasattr(model, "disable_adapter"):
            raise ValueError('draft_adapter="off" needs a model wrapped by peft; this one is not')
        allowed = torch.ones(vocab, dtype=torch.bool)
        allowed[[mask_token_id, *said, *forbid_ids]] = False
        if options.t2t != "none" and int(allowed.sum()) < 2:
            raise ValueError("forbid_ids leaves fewer than two ids for random wrong tokens")
        self.register_buffer("candidates", allowed.nonzero().squeeze(1), persistent=False)
        if options.share_clean == "on" and (reason := self._why_not_shared()):
            raise ValueError(f'share_clean="on" is not valid here: {reason}')

    @property
    def trained(self) -> Any:
        """The model, or `PeftModel`."""
        return self.model

    @property
    def seen_size(self) -> int:
        return SEEN if self.control is None else SEEN + OPERATIONS

    def report(self, seen: list[float]) -> dict[str, float | None]:
        edits = {} if self.control is None else report_operations(seen[SEEN:])
        return report(seen[:SEEN]) | edits

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the classes of layers, of which FSDP shards each by itself."""
        return list(self.base._no_split_modules)

    @property
    def vocab(self) -> int:
        return vocabulary(self.base.lm_head)

    def forward(
        self,
        input_ids: Tensor,
        response: Tensor,
        positions: Tensor,
        example: Tensor,
        epoch: int = 0,
        measure: bool = True,
    ) -> StepOutput:
        """Loss and counts of a batch.

        input_ids  [B, L] int64  clean ids; L is a multiple of the block size, and every document
                                 begins at a block
        response   [B, L] bool   maskable positions
        positions  [B, L] int64  position within the document
        example    [B, L] int64  global index of the document, -1 in row padding
        epoch      epoch of the rows, part of the key of the noise
        measure    count what the model predicts: one more pass of the head, without gradient
        """
        batch = self._batch(input_ids, response, positions, example, epoch)
        passes = self._passes(batch)
        outputs = []
        for copy in range(self.options.copies):
            drafted, errors = no_drafts(input_ids.device)
            for turn, (noisy, *drafts) in enumerate(self._rounds(batch, copy, passes)):
                drafted, errors = drafted + drafts[0], errors + drafts[1]
                if turn == self.turns - 1 or self.options.grad_rounds == "all":
                    output = self._supervise(batch, noisy, turn, passes, measure)
                    outputs.append(output._replace(drafted=drafted, errors=errors))
                    drafted, errors = no_drafts(input_ids.device)
        return total(outputs)

    @torch.no_grad()
    def count(self, batch: dict[str, Any]) -> Tensor:
        """`StepOutput.labels` of a batch, int64 [], without running the model."""
        return self._labels(self._batch(**batch))

    def _labels(self, batch: Batch) -> Tensor:
        device = batch.clean.device
        total = torch.zeros((), dtype=torch.int64, device=device)
        for copy in range(self.options.copies):
            noisy = self._corrupted(batch, copy)
            if self.options.loss_region == "formerly_masked+random":
                # Which ids become random does not depend on any logit.
                noisy, *_ = self._filled(batch, noisy, copy, unread(self.vocab, device))
            count = denominator(noisy.labelled, batch.response, batch.example, self.options)
            total += self.options.rounds * count
        return total

    def _batch(
        self, input_ids: Tensor, response: Tensor, positions: Tensor, example: Tensor, epoch: int
    ) -> Batch:
        size, length = self.reading.block_size, input_ids.shape[1]
        if length % size or length == 0:
            raise ValueError(f"rows have {length} tokens, not whole blocks of {size}")
        return Batch(input_ids, response, Draws(self.seed, epoch, example, positions))

    def _passes(self, batch: Batch) -> Passes:
        base, draws = self.base, batch.draws
        ours = getattr(base, "masks_are_bool", False)
        if batch.clean.is_cuda and ours and base.config._attn_implementation == "sdpa":
            base.set_attn_implementation("flex_attention")  # skips the empty half of the masks
        rows = Tokens.of_rows(draws.example, draws.position, self.reading.block_size)
        shared = self.options.share_clean != "off" and not self._why_not_shared()
        return passes_over(base.model, batch.clean, rows, self.reading, shared=shared)

    def _why_not_shared(self) -> str | None:
        if self.reading.full:
            return "with full attention there is no clean half"
        return why_not_shared(self.model, self.options)

    def _rounds(self, batch: Batch, copy: int, passes: Passes) -> Iterator[Round]:
        """Noisy copy number `copy` as it is in each round, with the counts of its new drafts."""
        noisy, drafted, errors = self._copy(batch, copy, passes)
        yield noisy, drafted, errors
        for _ in range(self.turns - 1):
            for _ in range(self.options.turn_steps):
                noisy = self._advance(batch, noisy, passes)
            yield noisy, *no_drafts(batch.clean.device)

    def _copy(self, batch: Batch, copy: int, passes: Passes) -> Round:
        """Noisy copy number `copy`, drafted where it is to be, and the counts of drafts."""
        noisy = self._corrupted(batch, copy)
        if self.options.t2t != "self":
            return noisy, *no_drafts(batch.clean.device)
        with self._drafting():
            where = masks_to_draft(noisy, self.mask_token_id)
            logits = logits_of(passes.hidden(noisy.ids, where), self.base.lm_head)
            return self._filled(batch, noisy, copy, logits)

    def _corrupted(self, batch: Batch, copy: int) -> Noisy:
        return corrupt(
            batch.clean,
            batch.response,
            batch.draws,
            self.options,
            copy=copy,
            block_size=self.reading.block_size,
            mask_token_id=self.mask_token_id,
            candidates=self.candidates,
        )

    def _filled(self, batch: Batch, noisy: Noisy, copy: int, logits: Logits) -> Round:
        return fill_with_drafts(
            noisy,
            batch.clean,
            batch.draws,
            self.options,
            copy=copy,
            mask_token_id=self.mask_token_id,
            candidates=self.candidates,
            vocab=self.vocab,
            logits=logits,
        )

    def _advance(self, batch: Batch, noisy: Noisy, passes: Passes) -> Noisy:
        """A copy, its ids after one decoding step of the model."""
        size = self.reading.block_size
        where = batch.response.unflatten(1, (-1, size)).any(-1).repeat_interleave(size, dim=1)
        with self._drafting():
            ids = decoding_step(
                noisy.ids,
                batch.response,
                passes.hidden(noisy.ids, where),
                self.base.lm_head,
                self.options,
                where=where,
                block_size=size,
                mask_token_id=self.mask_token_id,
            )
        return replace(noisy, ids=ids)

    @contextlib.contextmanager
    def _drafting(self) -> Iterator[None]:
        """No gradient and no dropout, and no adapter where drafts come from the base model."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(without_dropout(self.model))
            if self.options.draft_adapter == "off":
                stack.enter_context(self.model.disable_adapter())
            yield
        # Autocast keeps the casts of weights; those made here have no gradient.
        torch.clear_autocast_cache()

    def _targets(self, batch: Batch, noisy: Noisy, turn: int) -> Callable[[], Tensor]:
        """Gives the labels of round `turn`, int64 [B, L], once the device has its next pass to
        work on."""
        return lambda: batch.clean

    def _supervise(
        self, batch: Batch, noisy: Noisy, turn: int, passes: Passes, measure: bool
    ) -> StepOutput:
        """Loss, denominator and counts of one noisy copy."""
        where, options, head = noisy.labelled, self.options, self.base.lm_head
        targets = self._targets(batch, noisy, turn)
        hidden = passes.hidden(noisy.ids, where)

        target = targets()
        kinds = kinds_of(noisy.ids, target, self.mask_token_id)
        weights = position_weights(noisy, kinds, batch.response, batch.example, options)
        kind, labels, current = kinds[where], target[where], noisy.ids[where]
        loss = weighted_cross_entropy(hidden, head, labels, weights[where])
        count = denominator(where, batch.response, batch.example, options)
        if options.cap_beta:
            rows = confident_rows(kind, options)
            # The step is divided by its labels: count makes this the mean over the rows again.
            loss = loss + options.cap_beta * count * entropy_of_right(
                hidden[rows], head, labels[rows]
            )
        counted = no_tally(kind)
        operations = None if self.control is None else no_operations(count.device)
        if measure:
            tau = options.turn_editing_threshold
            token, prob = predictions(hidden.detach(), head, current, self.mask_token_id)
            counted = tally(kind, current, labels, token, prob, tau)
            if self.control is not None:
                operations = tally_operations(
                    kind, current, labels, token, prob > tau, self.control
                )
        return StepOutput(loss, count, counted, *no_drafts(count.device), operations=operations)
