"""What drafts become, with logits that are given by hand."""

from __future__ import annotations

import pytest
import torch
from editing import BLOCK, MASK, packed
from torch import nn

from fastedit.training.noise import drafts
from fastedit.training.noise.corruption import corrupt
from fastedit.training.noise.drafts import (
    decoding_step,
    fill_with_drafts,
    lowest_share,
    masks_to_draft,
)
from fastedit.training.noise.draws import Draws
from fastedit.training.options import EditOptions

VOCAB = 24


def filled(seed: int = 0, **options):
    """Noisy copy, its masks, the argmax of their logits, and the copy with drafts."""
    batch = packed()
    candidates = torch.arange(2, VOCAB)
    settings = EditOptions(**({"draft_share": 1.0, "p_random": 0.0} | options))
    draws = Draws(seed, 0, batch["example"], batch["positions"])
    noisy = corrupt(
        batch["input_ids"],
        batch["response"],
        draws,
        settings,
        copy=0,
        block_size=BLOCK,
        mask_token_id=MASK,
        candidates=candidates,
    )
    masks = masks_to_draft(noisy, MASK)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(int(masks.sum()), VOCAB, generator=generator)
    logits[::3, MASK] = 50.0  # the mask would be the argmax
    result = fill_with_drafts(
        noisy,
        batch["input_ids"],
        draws,
        settings,
        copy=0,
        mask_token_id=MASK,
        candidates=candidates,
        vocab=VOCAB,
        logits=lambda rows: logits[rows],
    )
    best = logits.index_fill(1, torch.tensor([MASK]), -torch.inf).argmax(-1)
    return batch, noisy, masks, best, logits, result


def test_masks_become_the_argmax_and_the_rest_stays():
    batch, noisy, masks, best, _, (z, drafted, errors) = filled()
    assert torch.equal(z.ids[masks], best) and torch.equal(z.ids[~masks], noisy.ids[~masks])
    assert torch.equal(z.labelled, batch["response"])
    assert int(drafted.sum()) == int(masks.sum())
    assert int(errors.sum()) == int((best != batch["input_ids"][masks]).sum()) > 0


def test_forbidden_ids_are_never_drafted():
    *_, masks, best, logits, _ = filled()
    forbidden = tuple(best.unique().tolist())[:5]
    *_, (z, _, _) = filled(draft_forbid=forbidden)
    assert not torch.isin(z.ids[masks], torch.tensor(forbidden)).any()
    rest = logits.index_fill(1, torch.tensor([MASK, *forbidden]), -torch.inf).argmax(-1)
    assert torch.equal(z.ids[masks], rest)


def test_random_ids_are_candidates_though_drafts_may_be_any():
    _, noisy, _, best, _, (z, _, _) = filled(p_random=1.0, random_scope="both")
    where = noisy.drafted
    assert where.any() and (z.ids[where] >= 2).all()
    assert (best < 2).any()  # what a draft may be
    assert len(z.ids[where].unique()) > 5


def test_samples_differ_from_the_argmax_and_repeat():
    *_, masks, best, _, (z, _, _) = filled(draft_mode="sample", draft_temperature=3.0)
    again = filled(draft_mode="sample", draft_temperature=3.0)[-1][0]
    assert torch.equal(z.ids, again.ids) and not torch.equal(z.ids[masks], best)
    cold = filled(draft_mode="sample", draft_temperature=1e-3)[-1][0]
    assert torch.equal(cold.ids[masks], best)


def test_plain_samples_are_not_drafted():
    _, noisy, masks, _, _, (z, drafted, _) = filled(draft_share=0.0)
    assert not masks.any() and torch.equal(z.ids, noisy.ids) and not drafted.any()


def test_masks_kept_at_random_are_labelled():
    shares = []
    for seed in range(40):
        batch, _, masks, _, _, (z, drafted, _) = filled(seed, keep_mask=0.4)
        kept = masks & (z.ids == MASK)
        assert int(drafted.sum()) == int((masks & ~kept).sum())
        assert torch.equal(z.labelled, batch["response"])
        shares.append((int(kept.sum()), int(masks.sum())))
    kept, many = (sum(column) for column in zip(*shares, strict=True))
    assert abs(kept / many - 0.4) < 5 * (0.24 / many) ** 0.5


def test_masks_kept_by_confidence_are_the_least_sure_of_each_document():
    batch, _, masks, best, logits, (z, drafted, _) = filled(
        keep_mask=0.5, keep_select="lowest_conf"
    )
    prob = torch.zeros(masks.shape)
    prob[masks] = logits.softmax(-1).gather(1, best[:, None]).squeeze(1)
    assert int(drafted.sum()) == int(masks.sum())
    for document in (5, 6, 70):
        where = masks & (batch["example"] == document)
        kept = where & (z.ids == MASK)
        assert int(kept.sum()) == round(int(where.sum()) / 2) > 0
        assert prob[kept].max() <= prob[where & ~kept].min()


def test_lowest_share_breaks_ties_by_position_and_leaves_out_what_is_no_draft():
    example = torch.tensor([[3, 3, 3, 3, 1, 1, 1, 1]])
    prob = torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.9, 0.1, 0.3, 0.2]])
    drafted = torch.tensor([[True, True, True, False, True, True, True, True]])
    chosen = lowest_share(prob, drafted, example, 0.5)
    assert chosen.int().tolist() == [[1, 1, 0, 0, 0, 1, 0, 1]]  # round half to even: 2 of 3


@pytest.mark.parametrize("scope", ["drafted", "visible", "both"])
def test_random_ids_in_their_scope(scope):
    batch, noisy, masks, best, _, (z, _, _) = filled(p_random=1.0, random_scope=scope)
    visible = batch["response"] & ~masks
    for where, named in ((masks, "drafted"), (visible, "visible")):
        if scope in (named, "both"):
            assert (z.ids[where] != batch["input_ids"][where]).all()
            assert not (z.ids[where] == MASK).any()
        else:
            expected = best if named == "drafted" else noisy.ids[where]
            assert torch.equal(z.ids[where], expected)
    outside = ~batch["response"]
    assert torch.equal(z.ids[outside], batch["input_ids"][outside])


def test_loss_regions():
    for seed in range(10):
        options = {"p_random": 0.3, "random_scope": "both"}
        batch, noisy, masks, *_ = filled(seed, **options)
        by_region = {
            region: filled(seed, loss_region=region, **options)[-1][0]
            for region in ("response", "formerly_masked", "formerly_masked+random")
        }
        changed = by_region["response"].ids != noisy.ids
        assert torch.equal(by_region["response"].labelled, batch["response"])
        assert torch.equal(by_region["formerly_masked"].labelled, masks)
        assert torch.equal(by_region["formerly_masked+random"].labelled, masks | changed)


def test_chunks_change_nothing(monkeypatch):
    whole = filled(p_random=0.3, random_scope="both")[-1][0]
    monkeypatch.setattr("fastedit.training.loss.head.LOGITS", 3 * VOCAB)
    parts = filled(p_random=0.3, random_scope="both")[-1][0]
    assert torch.equal(whole.ids, parts.ids) and torch.equal(whole.labelled, parts.labelled)


@pytest.mark.parametrize("size", [1, 1 << 24])
def test_one_decoding_step(monkeypatch, size):
    """Commits above one threshold, else the best; edits above the other; only in the response."""
    monkeypatch.setattr(drafts, "LOGITS", size)
    head = nn.Linear(6, 6, bias=False)
    head.weight.data = torch.eye(6)

    def sure(token, prob):  # logits whose softmax gives `token` that probability
        row = torch.zeros(6)
        row[token] = torch.tensor(5 * prob / (1 - prob)).log()
        return row

    ids = torch.tensor([[MASK, MASK, 2, 2, MASK, MASK, 2, 2, 3, 3, 3, 3]])
    rows = [
        [(4, 0.8), (4, 0.6), (5, 0.6), (5, 0.4)],  # one commit, one edit
        [(4, 0.3), (5, 0.5), (2, 0.9), (3, 0.9)],  # none is sure: the best commits; one edit
        [(4, 0.9)] * 4,  # not of the response
    ]
    hidden = torch.stack([sure(*cell) for row in rows for cell in row])
    response = torch.arange(12)[None] < 8
    where = torch.ones_like(response)
    options = EditOptions(turns=2, turn_threshold=0.7, turn_editing_threshold=0.5)
    advanced = decoding_step(
        ids, response, hidden, head, options, where=where, block_size=4, mask_token_id=MASK
    )
    assert advanced.tolist() == [[4, MASK, 5, 2, MASK, 5, 2, 3, 3, 3, 3, 3]]
    first = torch.arange(12)[None] < 4
    partly = decoding_step(
        ids, response, hidden[:4], head, options, where=first, block_size=4, mask_token_id=MASK
    )
    assert torch.equal(partly[:, 4:], ids[:, 4:]) and torch.equal(partly[:, :4], advanced[:, :4])
