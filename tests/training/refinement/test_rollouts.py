"""Drafts of the edit stage against the released trainer's, told with lists."""

from __future__ import annotations

import pytest
import torch
from medlm_oracle import best, edit
from two_heads import DEL, EOS, MASK, PAD, logits

from fastedit.training.refinement import rollouts
from fastedit.training.refinement.rollouts import Begun, Rollout, drafted

VOCAB = 14


def scripted(seed):
    model = {"seed": seed, "V": VOCAB, "pos_mod": 64, "fill": [20, 8, 6, 5], "agree": 60}
    return model | {"edit": [55, 12, 4, 3, 3], "special2": 10, "rival": 40}


def plainly(document, model):
    """`mask_diffusion` with random scores, padding dropped, then `edit_diffusion`."""
    ids, rule = document.ids.tolist(), document.rule
    may = [j >= document.prompt for j in range(len(ids))]
    while open_ := [j for j, i in enumerate(ids) if i == MASK and may[j]]:
        first = logits(model, torch.tensor([ids]))[0][0]
        for j in sorted(open_, key=lambda j: document.order[j])[: rule.count]:
            ids[j] = best(first[j].tolist(), {MASK, DEL})
    if MASK in document.ids:
        kept = [j for j in range(len(ids)) if not may[j] or ids[j] != PAD]
        ids, may = [ids[j] for j in kept], [may[j] for j in kept]
    for _ in range(rule.edit_steps):
        heads = (head[0] for head in logits(model, torch.tensor([ids])))
        edit(ids, may, tuple(heads), document.most, None)
    return ids[document.prompt :]


@pytest.mark.parametrize("bound", [rollouts.LOGITS, 0])
def test_drafts_are_those_of_the_released_trainer(bound, monkeypatch):
    """Twelve documents that take 0 to 12 forwards, in one group or each by itself."""
    monkeypatch.setattr(rollouts, "LOGITS", bound)
    generator = torch.Generator().manual_seed(5)
    model, documents = scripted(3), []
    for number in range(12):
        length = 5 + number
        ids = torch.randint(4, VOCAB, (length,), generator=generator)
        masks = torch.rand(length, generator=generator) < (0.7 if number % 4 else 0.0)
        masks[:3], ids[-1] = False, EOS
        order, fills = torch.rand(length, generator=generator), (1, 2, 4)[number % 3]
        rule = Rollout(
            mask_steps=max(1, -(-int(masks.sum()) // fills)),
            edit_steps=number % 5,
            count=fills,
            delete_token_id=DEL,
            pad_token_id=PAD,
        )
        documents.append(Begun(ids.masked_fill(masks, MASK), order, 2, length + 2, rule))

    def heads(ids, lengths, wants):
        widths.append(len(ids))
        first, second = logits(model, ids, lengths)
        return first, second if wants else None

    widths = []
    found = drafted(documents, heads, mask_token_id=MASK, vocab=VOCAB, device="cpu")
    assert max(widths) == (1 if bound == 0 else 11)  # one of the twelve needs no forward
    for document, draft in zip(documents, found, strict=True):
        assert draft.tolist() == plainly(document, model)
    assert any(len(d) > len(b.ids) - 2 for b, d in zip(documents, found, strict=True))
    assert any(len(d) < len(b.ids) - 2 for b, d in zip(documents, found, strict=True))
