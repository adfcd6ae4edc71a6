"""The step of LLaDA2.2: a draft is decoded from round to round, and its labels are edits of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from fastedit.policies import JointThresholdInDel
from fastedit.training.noise.corruption import Noisy
from fastedit.training.noise.drafts import logits_of, masks_to_draft, no_drafts
from fastedit.training.noise.edits import Runs, lcs_labels, on_host
from fastedit.training.noise.rollout import Rollout
from fastedit.training.passes.passes import Passes
from fastedit.training.step import Batch, EditStep, Round


class InDelStep(EditStep):
    """A step with labels="lcs". The first round has masks, and the clean ids as labels.

    Before each other round the model decodes `turn_steps` steps further, by LLaDA2.2's own rule,
    which also deletes and inserts. In drafted samples the first of these steps fills all masks with
    a draft. Labels are then edits that lead from the draft to the clean ids, run by run, see
    `fastedit.ops.lcs_labels`. Source: the report of LLaDA2.2, section 3.1.

    They are made on the CPU while the device computes what they are labels of.
    """

    _labelling = 0.0  # seconds of the host, since `seconds` was asked

    @property
    def policy(self) -> JointThresholdInDel:
        """The rule that drafts are decoded by; a threshold of 1 is as good as any above."""
        options, control = self.options, self.control
        assert control is not None
        return JointThresholdInDel(
            threshold=min(1.0, options.turn_threshold),
            editing_threshold=min(1.0, options.turn_editing_threshold),
            delete_token_id=control.delete,
            insert_token_id=control.insert,
        )

    def _rounds(self, batch: Batch, copy: int, passes: Passes) -> Iterator[Round]:
        noisy = self._corrupted(batch, copy)
        yield noisy, *no_drafts(batch.clean.device)
        rollout = Rollout(
            noisy.ids,
            batch.response,
            self.policy,
            block_size=self.reading.block_size,
            mask_token_id=self.mask_token_id,
        )
        drafted, errors = no_drafts(batch.clean.device)
        for step in range((self.turns - 1) * self.options.turn_steps):
            with self._drafting():
                hidden = passes.hidden(rollout.ids, rollout.where)
                rollout.decide(hidden, self.base.lm_head)
                if step == 0:
                    masks = masks_to_draft(noisy, self.mask_token_id)[rollout.where]
                    logits = logits_of(hidden[masks], self.base.lm_head)
                    filled, drafted, errors = self._filled(batch, noisy, copy, logits)
                    rollout.begin(filled.ids, noisy.drafted)
            if (step + 1) % self.options.turn_steps == 0:
                yield replace(noisy, ids=rollout.ids), drafted, errors
                drafted, errors = no_drafts(batch.clean.device)

    def _targets(self, batch: Batch, noisy: Noisy, turn: int) -> Callable[[], Tensor]:
        if turn == 0:
            return super()._targets(batch, noisy, turn)
        assert self.control is not None
        control, most, device = self.control, self.options.wildcard_rounds, noisy.ids.device
        arrive = on_host(noisy.ids, batch.clean, batch.response)

        def labels() -> Tensor:
            ids, clean, response = arrive()
            began = time.perf_counter()
            made = lcs_labels(
                ids,
                clean,
                Runs.of(response, self.reading.block_size),
                control,
                mask_token_id=self.mask_token_id,
                wildcard=most is None or turn <= most,
            )
            if device.type == "cuda":
                made = made.pin_memory()
            self._labelling += time.perf_counter() - began
            return made.to(device, non_blocking=True)

        return labels

    def seconds(self) -> dict[str, float]:
        spent, self._labelling = self._labelling, 0.0
        return {"labels": spent}
