"""Drafts into fixed masks: the same masks for every model, at three rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastedit.evaluation.errors.held_out import HeldOut
from fastedit.evaluation.errors.rules import Rules
from fastedit.evaluation.errors.written import Written, nearest_visible
from fastedit.ops.draft_and_corrupt import EDIT
from fastedit.training.data.collator import Collator
from fastedit.training.data.order import Turn
from fastedit.training.loss.head import vocabulary
from fastedit.training.noise.corruption import corrupt
from fastedit.training.noise.drafts import decide, draft_options, logits_of
from fastedit.training.noise.draws import Draws
from fastedit.training.options import EditOptions
from fastedit.training.passes.layout import Tokens
from fastedit.training.passes.passes import passes_over
from fastedit.training.reading import Reading

RATES = (0.3, 0.5, 0.8)  # mask rates t; `Written.group` of a draft is an index of them
BATCH = 8  # samples in a forward


@torch.inference_mode()
def drafted(
    model: Any,
    held: HeldOut,
    rules: Rules,
    *,
    seed: int = 0,
    draft_mode: str = "argmax",
    temperature: float = 1.0,
    key: int = 0,
    batch_size: int = BATCH,
    on_batch: Callable[[int], None] = lambda samples: None,
) -> Written:
    """What `model`, in eval mode, drafts into the masks of every sample.

    The masks follow from the seed, the sample and the rate alone. With draft_mode="sample" a draft
    is a draw at `temperature`, keyed by `key` too: two keys are two drafts of one model. Wrong is
    what is not the sample's token. Rows come in the order of samples, rates and positions within a
    batch. Raises ValueError for bad logits.
    """
    collate = Collator(
        held.documents,
        examples=len(held.documents),
        eos_token_id=held.padding,
        block_size=held.block_size,
    )
    device, reading = next(model.parameters()).device, Reading.of(model)
    parts = []
    for start in range(0, len(held.documents), batch_size):
        numbers = range(start, min(start + batch_size, len(held.documents)))
        batch = collate([Turn((number,), 0) for number in numbers])
        clean, response = batch["input_ids"].to(device), batch["response"].to(device)
        draws = Draws(seed, 0, batch["example"].to(device), batch["positions"].to(device))
        rows = Tokens.of_rows(draws.example, draws.position, held.block_size)
        passes = passes_over(model.model, clean, rows, reading, shared=True)
        seen_at_once = clean.shape[1] if reading.full else held.block_size
        for group, rate in enumerate(RATES):
            options = EditOptions(
                noise=f"fixed({rate})",
                draft_share=1.0,
                p_random=0.0,
                draft_mode=draft_mode,
                draft_temperature=temperature,
            )
            xt = corrupt(
                clean,
                response,
                draws,
                options,
                copy=group,
                block_size=held.block_size,
                mask_token_id=held.mask_token_id,
                candidates=clean.new_empty(0),  # of random ids, of which there are none
            ).ids
            masks = xt == held.mask_token_id
            hidden, head = passes.hidden(xt, masks), model.lm_head
            found = decide(
                logits_of(hidden, head),
                xt[masks],
                clean[masks],
                draft_options(options, held.mask_token_id),
                draws.draft_key(masks, group + key * len(RATES)),
                vocabulary(head),
            )
            if bool(found.bad.any() | (found.kinds != EDIT).any()):
                raise ValueError(
                    "bad logits (NaN, +inf or nothing finite): run it with --dtype float32"
                )
            z = xt.masked_scatter(masks, found.z)
            tensors = (clean, response, draws.example >= 0, masks, z, found.p_draft)
            arrays = [tensor.cpu().numpy() for tensor in tensors]
            parts.append(_table(start, group, arrays, seen_at_once, rules))
        on_batch(len(numbers))
    return Written.joined(parts)


def _table(
    first: int,
    group: int,
    arrays: list[np.ndarray],
    block_size: int,
    rules: Rules,
) -> Written:
    """Clean ids, response, tokens of samples, masks and drafts [B, L]; p(y) of the masks.

    `first` is the number of its first sample. block_size: positions that see each other without
    what stands behind them; with full attention the whole row.
    """
    clean, response, real, masks, z, prob = arrays
    row, position = masks.nonzero()
    visible = (~masks & real).reshape(-1, block_size)
    before = np.tile(np.arange(masks.shape[1] // block_size) > 0, len(masks))
    distance = nearest_visible(visible, before).reshape(masks.shape)
    relative = (response.cumsum(1) - 1) / response.sum(1, keepdims=True)
    wrong = z[masks] != clean[masks]
    kind = np.full(len(row), -1)
    for n in wrong.nonzero()[0]:
        b, i = row[n], position[n]
        place = i % block_size
        left = z[b, i - 1] if place else clean[b, i - 1] if i else -1  # what stands there is final
        behind = z[b, i + 1] if place + 1 < block_size and real[b, i + 1] else -1
        kind[n] = rules.kind(int(z[b, i]), int(clean[b, i]), int(left), int(behind))
    return Written.of_columns(
        first + row,
        np.full(len(row), group),
        position,
        relative[masks],
        distance[masks],
        prob,
        wrong,
        kind,
    )
