"""Noise of the editing step: a function of its key alone, with the shares that options name."""

from __future__ import annotations

import pytest
import torch
from editing import MASK, SPECIAL

from fastedit.training.noise.corruption import corrupt, draw_masks, mask_rates, random_tokens
from fastedit.training.noise.draws import Draws
from fastedit.training.noise.schedule import Schedule
from fastedit.training.options import EditOptions

BLOCK, LENGTH, DOCUMENTS, VOCAB = 32, 256, 400, 40
PROMPT = 40


def rows(seed: int = 7, epoch: int = 0, first: int = 0):
    """One document per row, ids of 400 documents, their response and the draws."""
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(2, VOCAB, (DOCUMENTS, LENGTH), generator=generator)
    position = torch.arange(LENGTH).repeat(DOCUMENTS, 1)
    example = (first + torch.arange(DOCUMENTS))[:, None].expand(-1, LENGTH)
    return clean, position >= PROMPT, Draws(seed, epoch, example, position)


def corrupted(copy: int = 0, clean_rows=None, **options):
    clean, response, draws = clean_rows or rows()
    candidates = torch.tensor([i for i in range(VOCAB) if i not in (MASK, SPECIAL)])
    noisy = corrupt(
        clean,
        response,
        draws,
        EditOptions(**options),
        copy=copy,
        block_size=BLOCK,
        mask_token_id=MASK,
        candidates=candidates,
    )
    return clean, response, noisy


def close(share, expected, count, sigmas: float = 5.0):
    """Whether a share of `count` independent trials is what it is expected to be."""
    spread = max((expected * (1 - expected) / count) ** 0.5, 1e-9)
    return abs(float(share) - expected) < sigmas * spread


def test_plain_samples_are_masked_and_nothing_else():
    clean, response, noisy = corrupted(t2t="none", noise="fixed(0.6)")
    masked = noisy.ids == MASK
    assert not (masked & ~response).any() and torch.equal(noisy.ids[~masked], clean[~masked])
    assert torch.equal(noisy.labelled, masked) and not noisy.drafted.any()
    assert close(masked.sum() / response.sum(), 0.6, int(response.sum()))


def test_one_rate_per_document_or_per_block():
    _, _, draws = rows()
    rate = mask_rates(draws, Schedule.parse("uniform_seq(0.3,0.8)"), 0, BLOCK)
    assert (rate == rate[:, :1]).all() and rate[:, 0].unique().numel() > DOCUMENTS - 5
    assert abs(rate[:, 0].mean() - 0.55) < 5 * 0.5 / 12**0.5 / DOCUMENTS**0.5
    assert rate.min() >= 0.3 and rate.max() < 0.8
    blocks = mask_rates(draws, Schedule.parse("uniform_block(0,1)"), 0, BLOCK)
    blocks = blocks.unflatten(1, (-1, BLOCK))
    assert (blocks == blocks[..., :1]).all()
    assert blocks[..., 0].unique().numel() > 0.99 * blocks[..., 0].numel()


def test_masks_follow_the_rate_of_their_document():
    _, response, noisy = corrupted(t2t="none", noise="uniform_seq(0,1)")
    shares = (noisy.ids == MASK).sum(1) / response.sum(1)
    spread = (noisy.rate[:, 0] * (1 - noisy.rate[:, 0]) / response.sum(1)).sqrt().clamp(min=1e-3)
    assert (((shares - noisy.rate[:, 0]) / spread).abs() < 5).all()


def test_complementary_copies_mask_every_response_position_once():
    options = EditOptions(t2t="none", complementary=True, n_drafts=2, noise="uniform_seq(0.3,0.8)")
    _, response, draws = rows()
    copies = [draw_masks(draws, response, options, copy, BLOCK) for copy in range(4)]
    for (one, rate), (other, rest) in (copies[:2], copies[2:]):
        assert torch.equal(one ^ other, response) and not (one & other).any()
        torch.testing.assert_close(rate + rest, torch.ones_like(rate))
    assert 0.2 < copies[1][1].min() < 0.25 and 0.65 < copies[1][1].max() <= 0.7
    assert not torch.equal(copies[0][0], copies[2][0])  # the two pairs are independent


def test_random_wrong_tokens():
    clean, response, noisy = corrupted(t2t="random", noise="fixed(0.5)", r_edit=0.2)
    masked, wrong = noisy.ids == MASK, (noisy.ids != clean) & (noisy.ids != MASK)
    visible = response & ~masked
    assert not (wrong & ~visible).any()
    assert close(wrong.sum() / visible.sum(), 0.2, int(visible.sum()))
    assert torch.equal(noisy.labelled, response)  # masked and the rest
    counts = torch.bincount(noisy.ids[wrong], minlength=VOCAB)
    assert counts[MASK] == counts[SPECIAL] == 0
    expected = int(wrong.sum()) / (VOCAB - 2)  # uniform over the others, for uniform clean ids
    assert ((counts[2:] - expected).abs() < 5 * expected**0.5).all()


def test_wrong_tokens_are_never_the_clean_ones():
    clean, response, noisy = corrupted(t2t="random", noise="fixed(0)", r_edit=1.0)
    assert (noisy.ids[response] != clean[response]).all()


@pytest.mark.parametrize("clean", [3, 7, 12, 0, 5, 99])
def test_every_other_candidate_is_as_likely_as_the_rest(clean):
    """Also where the clean id is none of them, such as a special one."""
    candidates, count = torch.tensor([3, 4, 7, 9, 12]), 20_000
    draws = Draws(3, 0, torch.zeros(1, count, dtype=torch.int64), torch.arange(count)[None])
    drawn = random_tokens(draws, torch.full((1, count), clean), candidates, 0)
    others = candidates[candidates != clean]
    counts = torch.bincount(drawn.flatten(), minlength=13)[others]
    assert int(counts.sum()) == count
    assert all(close(found / count, 1 / len(others), count) for found in counts)


@pytest.mark.parametrize(("t2t", "share"), [("random", "mix_share"), ("self", "draft_share")])
def test_a_share_of_the_samples_gets_wrong_tokens(t2t, share):
    clean, response, noisy = corrupted(t2t=t2t, r_edit=0.3, **{share: 0.3})
    masked = noisy.ids == MASK
    edited = (noisy.labelled & ~masked).any(1)
    assert close(edited.float().mean(), 0.3, DOCUMENTS)
    assert torch.equal(noisy.labelled[edited], response[edited])
    assert torch.equal(noisy.labelled[~edited], masked[~edited])
    if t2t == "self":
        assert torch.equal(noisy.drafted, response & edited[:, None])
        assert torch.equal(noisy.ids[~masked], clean[~masked])
    else:
        assert torch.equal(((noisy.ids != clean) & ~masked).any(1), edited)


def test_a_share_of_the_samples_stays_clean():
    clean, response, noisy = corrupted(t2t="self", draft_share=1.0, confirm_share=0.25)
    kept = (noisy.ids == clean).all(1)
    assert close(kept.float().mean(), 0.25, DOCUMENTS)
    assert torch.equal(noisy.labelled[kept], response[kept])
    assert not noisy.drafted[kept].any() and (noisy.drafted == response)[~kept].all()


def test_rounds_put_labels_on_all_of_the_response():
    _, response, noisy = corrupted(t2t="none", turns=2)
    assert torch.equal(noisy.labelled, response)


def test_same_noise_in_any_batch_row_and_packing():
    clean, response, draws = rows()
    _, _, whole = corrupted(t2t="random", noise="uniform_block(0,1)", mix_share=0.5)
    picked = [7, 3]
    alone = (
        clean[picked],
        response[picked],
        Draws(7, 0, draws.example[picked], draws.position[picked]),
    )
    packed = tuple(
        part.reshape(1, -1) for part in (*alone[:2], alone[2].example, alone[2].position)
    )
    one_row = (*packed[:2], Draws(7, 0, *packed[2:]))
    for some in (alone, one_row):
        _, _, part = corrupted(
            clean_rows=some, t2t="random", noise="uniform_block(0,1)", mix_share=0.5
        )
        for name in ("ids", "rate", "labelled", "drafted"):
            expected = getattr(whole, name)[picked]
            assert torch.equal(getattr(part, name).view_as(expected), expected), name


def test_seed_epoch_example_and_copy_each_change_the_noise_and_the_global_generator_does_not():
    torch.manual_seed(0)
    ids = corrupted(t2t="random")[2].ids
    before = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(corrupted(t2t="random")[2].ids, ids)
    torch.set_rng_state(before)
    corrupted(t2t="random")
    assert torch.equal(torch.get_rng_state(), before)
    others = [
        corrupted(t2t="random", clean_rows=rows(seed=8))[2],
        corrupted(t2t="random", clean_rows=rows(epoch=1))[2],
        corrupted(t2t="random", clean_rows=rows(first=1))[2],
        corrupted(copy=1, t2t="random")[2],
    ]
    everything = [ids, *(noisy.ids for noisy in others)]
    for i, one in enumerate(everything):
        for other in everything[:i]:
            assert 0.3 < ((one == MASK) == (other == MASK))[:, PROMPT:].float().mean() < 0.7
