"""Draws: the random words, the distribution they come from, and what they depend on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blocks import interpreted

from fastedit import ops
from fastedit.ops.joint_threshold import reference
from fastedit.ops.sampling import DECODE, philox, uniform

MASK = 6  # of a vocabulary of 7
ROW = np.array([1.0, 0.0, 2.0, 1.0, -1.0, -np.inf, 3.0])


@pytest.mark.parametrize(
    ("seed", "counter", "words"),
    [
        (0, (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (-1, (0xFFFFFFFF,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_words(seed, counter, words):
    c0, c1, c2 = (torch.tensor([c]) for c in counter[:3])
    got = philox(torch.tensor([seed]), c0, c1, c2, counter[3])
    assert " ".join(f"{int(word):08x}" for word in got) == words


def test_uniforms_lie_in_the_unit_interval_and_differ_by_every_part_of_their_key():
    n = 20000
    u = uniform(torch.tensor([7]), torch.arange(n), torch.tensor([0]), DECODE)
    assert u.dtype == torch.float32 and u.min() >= 0.0 and u.max() < 1.0
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * n)
    assert abs(float((u[1:] * u[:-1]).mean()) - 0.25) < 5 * 0.22 / math.sqrt(n)
    one, two = torch.tensor([1]), torch.tensor([2])
    keys = [(one, one, one, 3), (two, one, one, 3), (one, two, one, 3), (one, one, two, 3)]
    draws = [uniform(*key).item() for key in [*keys, (one, one, one, 2)]]
    assert len(set(draws)) == 5


def sampling(blocks, **options):
    """One `Sampling` of `blocks` rows; numbers are repeated."""
    types = {"temperature": torch.float32, "top_k": torch.int64, "top_p": torch.float32}
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 3, "start": 0}
    return ops.Sampling(
        **{
            name: torch.as_tensor(value).to(types.get(name, torch.int64)).expand(blocks)
            for name, value in (defaults | options).items()
        }
    )


def draw(backend, logits, how, forwards=0, threshold=0.0, **options):
    """Tokens [B, L] that a step commits into all-mask blocks; `logits` [V] or [B, L, V]."""
    blocks = len(how.seed)
    if interpreted(backend) and np.ndim(logits) == 1:
        pytest.skip("5000 draws are too many for the interpreter; tests/kernels has fewer")
    logits = torch.as_tensor(logits, dtype=torch.float32)
    logits = logits.expand(blocks, 5000, -1).contiguous() if logits.dim() == 1 else logits
    ids = torch.full(logits.shape[:2], MASK)
    state = ops.StepState.new(blocks)
    state.forwards.fill_(forwards)
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids,
            logits,
            torch.ones_like(ids).bool(),
            state,
            mask_token_id=MASK,
            threshold=threshold,
            editing_threshold=None,
            max_post_steps=0,
            sampling=how,
            **options,
        )
    return ids


def distribution(logits, forbid, temperature, top_k, top_p):
    """Forbidden ids leave, temperature, top-k with ties, top-p, softmax: as the page says it."""
    z = logits.copy()
    z[list(forbid)] = -np.inf
    z = z / temperature
    if 0 < top_k < len(z):
        z[z < np.sort(z)[-top_k]] = -np.inf
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    order = np.argsort(-p, kind="stable")
    if top_p < 1:
        preceding = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
        p[order[preceding > top_p]] = 0.0
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.7), (3, 0.5), (99, 0.0)])
@pytest.mark.parametrize("forbid", [(), (2,)])
def test_frequencies_follow_the_filtered_distribution(backend, temperature, top_k, top_p, forbid):
    how = sampling(2, temperature=temperature, top_k=top_k, top_p=top_p, seed=[11, 12])
    ids = draw(backend, ROW, how, forbid=forbid)
    counts = np.bincount(ids.flatten().numpy(), minlength=7)
    p = distribution(ROW, (MASK, *forbid), temperature, top_k, top_p)
    assert (counts[p == 0] == 0).all()
    assert (abs(counts - 10000 * p) <= 5 * np.sqrt(10000 * p * (1 - p))).all()


def test_ties_at_the_top_k_boundary_are_kept(backend):
    ids = draw(backend, [1.0, 2.0, 1.0, 1.0, 0.0, -1.0, 9.0], sampling(1, top_k=2))
    assert set(ids.flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.24, 1), (0.25, 2), (0.5, 3), (0.51, 3)])
def test_top_p_keeps_what_comes_before_the_boundary(backend, top_p, kept):
    """Four equal tokens: masses before them are exactly 0, 1/4, 1/2, 3/4."""
    ids = draw(backend, [0.0, 0.0, 0.0, 0.0, -np.inf, -np.inf, 9.0], sampling(1, top_p=top_p))
    assert set(ids.flatten().tolist()) == set(range(kept))


def test_top_p_off_drops_nothing_however_long_the_tail(monkeypatch):
    monkeypatch.setattr(reference, "uniform", lambda *key: torch.tensor([[1 - 2.0**-20]]))
    logits = torch.randn(30000, generator=torch.Generator().manual_seed(0)) * 3
    logits = logits.sort(descending=True).values.expand(1, 1, -1)
    token, _ = reference.sample(logits, sampling(1), torch.zeros(1), ())
    tail = logits[0, 0].double().softmax(-1).flip(0).cumsum(0).flip(0)
    assert float(tail[token]) < 2 * 2.0**-20


def test_the_least_uniform_draws_the_first_token_with_any_mass(monkeypatch):
    monkeypatch.setattr(reference, "uniform", lambda *key: torch.zeros(1, 1))
    logits = torch.tensor([[[9.0, -math.inf, 0.0, 0.0]]])
    token, prob = reference.sample(logits, sampling(1), torch.zeros(1), (0,))
    assert (token.item(), prob.item()) == (2, 0.5)


def test_confidence_is_the_probability_after_the_filters(backend):
    """Unfiltered a token has p = 1/5; two are left after top-k, with temperature 2 as without."""
    row = [2.0, 2.0, 1.99, 1.99, 1.99, -np.inf, 9.0]
    how = sampling(1, temperature=2.0, top_k=2)
    logits = torch.tensor(row).expand(1, 2, -1)
    below = draw(backend, logits, how, threshold=0.4999)
    above = draw(backend, logits, how, threshold=0.5)
    assert MASK not in below.tolist()[0]
    assert above.tolist()[0] == [below.tolist()[0][0], MASK]


def test_extreme_logits_draw_what_is_left(backend):
    nan, inf = math.nan, math.inf
    for row, allowed in (
        ([nan, 0.0, -inf, -inf, -inf, -inf, 9.0], {1}),
        ([inf, 0.0, inf, -inf, -inf, -inf, 9.0], {0, 2}),
        ([2e38, 3e38, -inf, -inf, -inf, -inf, 9.0], {1}),
        ([-inf, -3e38, -inf, -inf, -inf, -inf, 9.0], {1}),
        ([-inf, nan, -inf, -inf, -inf, -inf, 9.0], {MASK}),
    ):
        ids = draw(backend, row, sampling(1, temperature=0.7, top_k=3, top_p=0.9))
        assert set(ids.flatten().tolist()) == allowed


def test_draws_do_not_depend_on_the_batch(backend, two_threads):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 2 if interpreted(backend) else 8, 7, generator=generator)
    how = sampling(
        6,
        temperature=[0.5, 1.0, 0.0, 2.0, 1.0, 1.0],
        top_k=[0, 3, 2, 0, 0, 4],
        top_p=[1.0, 0.9, 0.5, 0.8, 1.0, 0.7],
        seed=[1, 2, 3, 4, -5, 2**62],
        start=[0, 8, 8, 16, 24, 40],
    )

    def run(rows):
        part = ops.Sampling(*(value[rows] for value in vars(how).values()))
        return draw(backend, logits[rows], part, forwards=2, threshold=0.3)

    two_threads(False)
    together = run(list(range(6)))
    assert torch.equal(torch.cat([run([b]) for b in range(6)]), together)
    assert torch.equal(run([5, 4, 3, 2, 1, 0]), together.flip(0))
    two_threads(True)
    assert torch.equal(run(list(range(6))), together)


def test_greedy_rows_of_a_mixed_batch_ignore_their_filters(backend):
    logits = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(2))
    how = sampling(2, temperature=[0.0, 1.0], top_k=1, top_p=0.1)
    mixed = draw(backend, logits, how)
    greedy = draw(backend, logits, replace(how, temperature=torch.zeros(2)))
    assert mixed[0].tolist() == greedy[0].tolist() == logits[0, :, :MASK].argmax(-1).tolist()


def test_draws_are_keyed_by_seed_position_and_forward(backend):
    base = draw(backend, ROW, sampling(1))
    assert torch.equal(base, draw(backend, ROW, sampling(1)))
    assert torch.equal(base[:, 32:], draw(backend, ROW, sampling(1, start=32))[:, :-32])
    for other in (
        draw(backend, ROW, sampling(1, seed=4)),
        draw(backend, ROW, sampling(1), forwards=1),
        draw(backend, ROW, sampling(1, seed=3 + 2**32)),
    ):
        assert float((other != base).float().mean()) > 0.1
