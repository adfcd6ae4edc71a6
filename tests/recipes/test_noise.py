"""Rates of masks and wrong tokens, and what must never be touched or chosen."""

from __future__ import annotations

import pytest
import torch

from recipes.tiny.noise import block_mask_rates, choose, corrupt, random_other


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_block_rates_are_uniform_with_a_share_of_ones():
    rates = block_mask_rates(2000, 10, 0.25, generator())
    full = rates == 1.0
    assert abs(full.float().mean() - 0.25) < 0.02
    rest = rates[~full]
    assert abs(rest.mean() - 0.5) < 0.02 and abs(rest.std() - 12**-0.5) < 0.01


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_choose_keeps_inside_and_hits_its_rate(rate):
    where = torch.rand(200, 500, generator=generator()) < 0.5
    chosen = choose(where, torch.tensor(rate), generator(1))
    assert not (chosen & ~where).any()
    assert abs(chosen.sum() / where.sum() - rate) < 0.01


def test_random_other_is_uniform_over_the_others():
    candidates = torch.tensor([3, 4, 7, 9, 12])
    for clean in (3, 7, 12):
        drawn = random_other(torch.full((20000,), clean), candidates, generator())
        counts = torch.bincount(drawn, minlength=13)[candidates]
        assert counts.sum() == 20000
        assert counts[candidates == clean] == 0
        assert (counts[candidates != clean] / 20000 - 0.25).abs().max() < 0.02
    for outsider in (0, 5, 99):
        drawn = random_other(torch.full((20000,), outsider), candidates, generator())
        shares = torch.bincount(drawn, minlength=13)[candidates] / 20000
        assert (shares - 0.2).abs().max() < 0.02


def corrupted(edit_rate: float = 0.2, lookalike_share: float = 0.5, full_share: float = 0.1):
    clean = torch.randint(2, 40, (400, 64), generator=generator(5))
    response = (torch.arange(64) >= 10).expand(400, 64).clone()
    noisy = corrupt(
        clean,
        response,
        block_size=32,
        mask_token_id=1,
        full_share=full_share,
        edit_rate=edit_rate,
        candidates=torch.arange(2, 40),
        lookalikes=torch.arange(10, 20),
        lookalike_share=lookalike_share,
        generator=generator(6),
    )
    return clean, response, noisy


def test_corruption_leaves_the_prompt_and_the_kept_tokens():
    clean, response, (ids, masked, replaced) = corrupted()
    assert not ((masked | replaced) & ~response).any() and not (masked & replaced).any()
    assert torch.equal(ids == 1, masked)
    assert torch.equal((ids != clean) & ~masked, replaced)
    assert (ids[replaced] >= 2).all()


def test_corruption_rates():
    clean, response, (ids, masked, replaced) = corrupted(full_share=0.0)
    assert abs(masked.sum() / response.sum() - 0.5) < 0.03
    assert abs(replaced.sum() / (response & ~masked).sum() - 0.2) < 0.02
    among = torch.isin(clean, torch.arange(10, 20))
    alike = torch.isin(ids, torch.arange(10, 20))
    # Half by a lookalike for certain, the other half by chance: 9 of 37 others.
    assert abs(alike[replaced & among].float().mean() - (0.5 + 0.5 * 9 / 37)) < 0.04
    assert abs(alike[replaced & ~among].float().mean() - 10 / 37) < 0.04


def test_no_edits_when_their_rate_is_zero():
    assert not corrupted(edit_rate=0.0)[2].replaced.any()


def test_corruption_repeats_with_its_generator():
    assert torch.equal(corrupted()[2].ids, corrupted()[2].ids)
