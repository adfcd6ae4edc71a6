"""Self-generated noise: masks filled with the model's own tokens, and rounds of decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastedit import ops
from fastedit.ops.draft_and_corrupt import EDIT, RANDOM
from fastedit.training.loss.head import LOGITS, chunks, readable, vocabulary
from fastedit.training.loss.metrics import BUCKETS, by_rate
from fastedit.training.noise.corruption import Noisy, random_tokens
from fastedit.training.noise.draws import Draws
from fastedit.training.noise.ranks import best_of_each, counts_in
from fastedit.training.options import EditOptions

# Logits of some rows, [n, V]: slice of the rows -> logits
Logits = Callable[[slice], Tensor]


def draft_options(options: EditOptions, mask_token_id: int) -> ops.DraftOptions:
    lowest = options.keep_select == "lowest_conf"
    return ops.DraftOptions(
        mask_token_id=mask_token_id,
        forbid=options.draft_forbid,
        draft_mode=options.draft_mode,
        temperature=options.draft_temperature,
        keep_mask=0.0 if lowest else options.keep_mask,
        p_random=options.p_random,
        random_scope=options.random_scope,
        loss_region=options.loss_region,
    )


def logits_of(hidden: Tensor, head: nn.Module) -> Logits:
    """Of hidden states [N, H], as they are asked for."""
    return lambda rows: readable(head(hidden[rows]))


def unread(vocab: int, device: torch.device) -> Logits:
    """Logits for rows whose logits do not matter; they take no memory."""
    row = torch.zeros(1, vocab, device=device)
    return lambda rows: row.expand(rows.stop - rows.start, vocab)


def masks_to_draft(noisy: Noisy, mask_token_id: int) -> Tensor:
    """Positions whose logits a draft needs, bool [B, L]."""
    return noisy.drafted & (noisy.ids == mask_token_id)


@torch.no_grad()
def fill_with_drafts(
    noisy: Noisy,
    clean: Tensor,
    draws: Draws,
    options: EditOptions,
    *,
    copy: int,
    mask_token_id: int,
    candidates: Tensor,
    vocab: int,
    logits: Logits,
) -> tuple[Noisy, Tensor, Tensor]:
    """`noisy` with its drafted samples decided: z, and the labels of the loss region.

    Beside it the number of drafts and of wrong ones by bucket of t, int64 [BUCKETS] each.
    `logits` gives the rows of `masks_to_draft`, in order; they are asked for chunk by chunk.
    Random ids are `candidates`: a draft may well be EOS or another special id, a random id not.
    """
    masks = masks_to_draft(noisy, mask_token_id)
    settings = draft_options(options, mask_token_id)
    ids, labelled = noisy.ids.clone(), noisy.labelled.clone()
    prob = torch.zeros_like(noisy.rate)
    kinds = torch.zeros_like(ids, dtype=torch.uint8)
    # Visible positions take part (they may become random), but nothing of theirs is read.
    for where, source in ((masks, logits), (noisy.drafted & ~masks, unread(vocab, ids.device))):
        key = draws.draft_key(where, copy)
        part = decide(source, noisy.ids[where], clean[where], settings, key, vocab)
        ids[where], labelled[where] = part.z, part.labels >= 0
        kinds[where], prob[where] = part.kinds, part.p_draft
    ids = torch.where(kinds & RANDOM > 0, random_tokens(draws, clean, candidates, copy), ids)
    drafted = kinds == EDIT
    wrong = drafted & (ids != clean)
    if options.keep_select == "lowest_conf":
        least = lowest_share(prob, drafted, draws.example, options.keep_mask)
        ids = ids.masked_fill(least, mask_token_id)
    counts = by_rate(noisy.rate, drafted), by_rate(noisy.rate, wrong)
    return replace(noisy, ids=ids, labelled=labelled), *counts


def decide(
    logits: Logits,
    xt: Tensor,
    x0: Tensor,
    settings: ops.DraftOptions,
    key: ops.DraftKey,
    vocab: int,
) -> ops.Drafted:
    """`ops.draft_and_corrupt` of n rows, all eligible, whose logits are asked for by chunks."""
    drafted = ops.Drafted(
        z=torch.empty_like(xt),
        labels=torch.empty_like(xt),
        kinds=torch.empty_like(xt, dtype=torch.uint8),
        p_draft=torch.empty(xt.shape, device=xt.device),
        n_err=torch.zeros((), dtype=torch.int64, device=xt.device),
        bad=torch.empty_like(xt, dtype=torch.bool),
    )
    for rows in chunks(len(xt), vocab):
        everyone = torch.ones_like(xt[rows], dtype=torch.bool)
        own = replace(key, example=key.example[rows], position=key.position[rows])
        part = ops.draft_and_corrupt(logits(rows), xt[rows], x0[rows], everyone, settings, own)
        for name in ("z", "labels", "kinds", "p_draft", "bad"):
            getattr(drafted, name)[rows] = getattr(part, name)
        drafted.n_err.add_(part.n_err)
    return drafted


def lowest_share(prob: Tensor, drafted: Tensor, example: Tensor, share: float) -> Tensor:
    """The drafts of lowest `prob` of each document, as many as `share` of them, rounded; [B, L].

    As a decoder with a threshold would leave them. On ties the earlier position.
    """
    count = (counts_in(drafted, example) * share).round()
    return best_of_each(-prob, drafted, example, count)


@torch.no_grad()
def decoding_step(
    ids: Tensor,
    response: Tensor,
    hidden: Tensor,
    head: nn.Module,
    options: EditOptions,
    *,
    where: Tensor,
    block_size: int,
    mask_token_id: int,
) -> Tensor:
    """`ids` [B, L] after one greedy decoding step on every block of `where`, bool [B, L].

    hidden [N, H], rows of `where`, which holds whole blocks. Commits, forced commits and edits
    are those of a decoder (`ops.joint_threshold_step_`), inside `response` alone.
    """
    canvas = ids[where].view(-1, block_size)
    editable, states = response[where].view(-1, block_size), hidden.view(*canvas.shape, -1)
    size = max(1, LOGITS // (vocabulary(head) * block_size))
    for start in range(0, len(canvas), size):
        blocks = slice(start, start + size)
        part = canvas[blocks]
        ops.joint_threshold_step_(
            part,
            readable(head(states[blocks])),
            editable[blocks],
            ops.StepState.new(len(part), ids.device),
            mask_token_id=mask_token_id,
            threshold=options.turn_threshold,
            editing_threshold=options.turn_editing_threshold,
            max_post_steps=1,
        )
    return ids.masked_scatter(where, canvas)


def no_drafts(device: torch.device) -> tuple[Tensor, Tensor]:
    """Counts of a copy without drafts."""
    zero = torch.zeros(BUCKETS, dtype=torch.int64, device=device)
    return zero, zero
