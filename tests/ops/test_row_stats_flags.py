"""Row statistics on request: a temperature per row, the best few tokens, a drawn one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blocks import interpreted
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LARGEST, TINY
from oracle import row_stats as expected

from fastedit import ops
from fastedit.ops.sampling import DECODE, NOISE

INF, NAN = math.inf, math.nan
EPS = float(np.finfo(np.float32).eps)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def stats(backend, logits, current=None, **flags):
    current = torch.zeros(len(logits), dtype=torch.int64) if current is None else current
    with ops.use_backend(backend):
        return ops.row_stats(logits, current, **flags)


def draws(rows, **options):
    """`RowDraws` of `rows` rows; numbers are repeated."""
    defaults = {"seed": 3, "position": torch.arange(rows), "forward": 0, "top_k": 0, "top_p": 1.0}
    purpose = options.pop("purpose", DECODE)
    fields = {
        name: torch.as_tensor(value, dtype=torch.float32 if name == "top_p" else torch.int64)
        for name, value in (defaults | options).items()
    }
    return ops.RowDraws(**{name: x.expand(rows) for name, x in fields.items()}, purpose=purpose)


def ranked(row, forbid, k):
    """The k best allowed ids of a row of stored values, in plain Python."""
    score = {
        i: min(x, LARGEST) for i, x in enumerate(row) if i not in forbid and x == x and x > -INF
    }
    return sorted(score, key=lambda i: (-score[i], i))[:k]


def check_ranks(got, logits, forbid, k, temperature=1.0):
    """Ids exactly; probabilities within rounding of those in float64."""
    for r, row in enumerate(logits.double().tolist()):
        want = ranked(row, forbid, k)
        assert got.top_tokens[r].tolist() == want + [-1] * (k - len(want))
        assert got.top_probs[r, len(want) :].eq(0).all()
        of = expected(np.array(row), 0, forbid, temperature)
        for token, prob in zip(want, got.top_probs[r].tolist(), strict=False):
            p, far = (
                math.exp(-(of.lse - min(row[token], LARGEST) / temperature)),
                of.distance[token],
            )
            slack = EPS * (8 + math.sqrt(len(row)) + 3 * min(far, 1e4) + 2 * abs(of.lse))
            assert abs(prob - p) <= p * slack + TINY
        if want:
            assert (got.top_tokens[r, 0], got.top_probs[r, 0]) == (got.token[r], got.prob[r])


@pytest.mark.parametrize(
    ("row", "forbid", "k", "tokens", "probs"),
    [
        ([1.0, 5.0, 5.0, 5.0], (), 3, [1, 2, 3], [0.3313] * 3),  # ties go to the lowest id
        ([5.0, 1.0, 5.0, 5.0], (0,), 2, [2, 3], [0.3313] * 2),
        ([0.0, -0.0, 0.0], (), 4, [0, 1, 2, -1], [1 / 3] * 3 + [0.0]),  # both zeros are equal
        ([0.0, INF, 1.0, INF], (), 3, [1, 3, 2], [0.5, 0.5, 0.0]),
        ([NAN, 0.0, -INF, 0.0], (), 4, [1, 3, -1, -1], [0.5, 0.5, 0.0, 0.0]),
        ([0.0, 0.0], (0, 1), 2, [-1, -1], [0.0, 0.0]),
        ([-INF, NAN], (), 1, [-1], [0.0]),
        ([-LARGEST, -INF], (), 2, [0, -1], [1.0, 0.0]),
        ([0.0, -200.0], (), 2, [0, 1], [1.0, 0.0]),  # a candidate without a visible share
        ([2.0], (), 8, [0] + [-1] * 7, [1.0] + [0.0] * 7),
        ([3.0, 2.0, 1.0, 0.0], (1, 0), 8, [2, 3] + [-1] * 6, [0.0871, 0.0321] + [0.0] * 6),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_best_tokens_follow_the_table(backend, row, forbid, k, tokens, probs, dtype):
    row = [max(x, torch.finfo(dtype).min) if x > -INF else x for x in row]
    got = stats(backend, torch.tensor([row]).to(dtype), forbid=forbid, top_k=k)
    assert got.top_tokens.tolist() == [tokens]
    assert got.top_tokens.dtype == torch.int64 and got.top_probs.dtype == torch.float32
    assert got.top_probs[0].tolist() == pytest.approx(probs, abs=1e-4)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.integers(1, 60),
    k=st.integers(1, 8),
    dtype=st.sampled_from(DTYPES),
    coarse=st.booleans(),
)
def test_the_best_tokens_of_any_row_are_those_of_a_sort(backend, seed, vocab, k, dtype, coarse):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(3, vocab)) * rng.choice([0.3, 3, 20])
    z = np.round(z) if coarse else z
    for value, rate in ((np.nan, 0.05), (np.inf, 0.03), (-np.inf, 0.2)):
        z[rng.random(z.shape) < rate * (rng.random() < 0.5)] = value
    logits = torch.from_numpy(z).to(dtype)
    forbid = rng.choice(vocab, size=rng.integers(min(vocab, 4) + 1), replace=False).tolist()
    got = stats(backend, logits, forbid=forbid, top_k=k)
    check_ranks(got, logits, forbid, k)


@pytest.mark.parametrize("vocab", [31, 1000, 2049, 4913, 40001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_best_tokens_of_long_rows(backend, vocab, dtype):
    """Across tiles and splits, with ties, rising, falling, and the best among the forbidden."""
    if interpreted(backend) and vocab > 10000:
        pytest.skip("too large for the interpreter; tests/kernels has several splits")
    generator = torch.Generator().manual_seed(vocab)
    rows = torch.randn(6, vocab, generator=generator) * 3
    rows[1] = rows[1].round()
    rows[2] = torch.linspace(-8, 8, vocab)
    rows[3] = torch.linspace(8, -8, vocab)
    rows[4] = 1.0
    rows[5, vocab // 2] = NAN
    logits = rows.to(dtype)
    forbid = sorted({0, vocab - 1, vocab // 3, *logits[:2].float().argmax(-1).tolist()})
    got = stats(backend, logits, forbid=forbid, top_k=8, entropy=vocab % 2 == 0)
    check_ranks(got, logits, forbid, 8)


def test_what_is_not_asked_for_is_none_and_changes_nothing(backend):
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(1)) * 3
    logits[1, 7], logits[2] = NAN, -INF
    current = torch.arange(5)
    plain = stats(backend, logits, current, forbid=(3,), entropy=True)
    full = stats(backend, logits, current, forbid=(3,), entropy=True, top_k=3, draws=draws(5))
    asked = ("top_tokens", "top_probs", "sample", "sample_prob")
    for name, value in vars(plain).items():
        assert value is None if name in asked else value.equal(getattr(full, name)), name
    bare = stats(backend, logits, current, forbid=(3,))
    assert bare.entropy is None and bare.prob.equal(full.prob)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_temperature_per_row_is_that_of_the_row(backend, dtype):
    """Bit for bit what the same number gives to all rows."""
    logits = (torch.randn(6, 700, generator=torch.Generator().manual_seed(2)) * 4).to(dtype)
    logits[4, 5] = NAN
    heat = torch.tensor([1.0, 0.7, 1.5, 2e-30, 0.3, 9e29])
    keys = draws(6, top_p=0.9)
    flags = {"forbid": (2,), "entropy": True, "top_k": 4}
    together = stats(backend, logits, temperature=heat, draws=keys, **flags)
    for r in range(6):
        alone = stats(backend, logits, temperature=float(heat[r]), draws=keys, **flags)
        for name, value in vars(together).items():
            assert value[r].equal(getattr(alone, name)[r]), (name, r)
    strided = torch.stack([heat, heat * 2], 1)[:, 0]
    assert stats(backend, logits, temperature=strided).lse.equal(together.lse)
    check_ranks(
        stats(backend, logits[1:2], temperature=heat[1:2], top_k=8), logits[1:2], (), 8, 0.7
    )


def test_temperatures_on_the_device_are_held_to_their_range(backend):
    """Values are never looked at by the host, and must spoil neither the row nor its neighbours."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0]]).expand(6, -1)
    odd = torch.tensor([0.0, -1.0, NAN, INF, 1e-30, 1e30])
    got = stats(backend, logits, temperature=odd, entropy=True, top_k=2, draws=draws(6, position=0))
    for field in vars(got).values():
        assert field[:3].equal(field[4:5].expand_as(field[:3])) and field[3].equal(field[5])
    assert got.token.tolist() == [1] * 6
    assert got.prob.tolist() == [0.5] * 3 + [0.25, 0.5, 0.25]


def sampled(backend, logits, heat, top_k, top_p, seed, start, forward, forbid):
    """Tokens that a joint-threshold step commits into blocks of masks [B, L]."""
    mask = logits.shape[-1] - 1
    ids = torch.full(logits.shape[:2], mask)
    state = ops.StepState.new(len(ids))
    state.forwards.copy_(forward)
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids,
            logits,
            ids == mask,
            state,
            mask_token_id=mask,
            threshold=0.0,
            editing_threshold=None,
            max_post_steps=0,
            forbid=forbid,
            sampling=ops.Sampling(heat, top_k, top_p, seed, start),
        )
    return ids


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_is_the_draw_of_the_step_under_the_same_key(backend, dtype):
    blocks, length, vocab = 6, 2 if interpreted(backend) else 16, 80
    logits = torch.randn(blocks, length, vocab, generator=torch.Generator().manual_seed(3)) * 2
    logits[2] = logits[2].round()
    logits[3, 0, 5] = NAN
    logits = logits.to(dtype)
    heat = torch.tensor([1.0, 0.7, 1.5, 1.0, 0.2, 1.0])
    top_k, top_p = torch.tensor([0, 5, 3, 0, 90, 1]), torch.tensor([1.0, 1.0, 0.8, 0.5, 0.9, 1.0])
    seed = torch.tensor([1, -2, 2**62 + 5, 4, 5, 6])
    start, forward = torch.tensor([0, 32, 64, 2**33, 7, 9]), torch.tensor([0, 1, 2, 3, 40, 5])
    want = sampled(backend, logits, heat, top_k, top_p, seed, start, forward, (4,))
    each = [x.repeat_interleave(length) for x in (heat, top_k, top_p, seed, start, forward)]
    place = torch.arange(length).repeat(blocks)
    got = stats(
        backend,
        logits.flatten(0, 1),
        forbid=(4, vocab - 1),
        temperature=each[0],
        draws=ops.RowDraws(each[3], each[4] + place, each[5], each[1], each[2]),
    )
    assert got.sample.view(blocks, length).equal(want)
    assert (got.sample_prob > 0).all() and (got.sample_prob <= 1).all()


ROW = np.array([1.0, 0.0, 2.0, 1.0, -1.0, -np.inf, 1.5])


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
        p[order[np.concatenate([[0.0], np.cumsum(p[order])[:-1]]) > top_p]] = 0.0
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.6, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.7), (4, 0.8), (99, 0.0)])
def test_samples_follow_the_filtered_distribution(backend, temperature, top_k, top_p):
    """Chi-square over 8,000 draws; the probability that comes with each is that of its token."""
    if interpreted(backend):
        pytest.skip("too many draws for the interpreter; the step's draws are compared above")
    rows = 8_000
    logits = torch.from_numpy(ROW).float().expand(rows, -1).contiguous()
    keys = draws(rows, top_k=top_k, top_p=top_p)
    got = stats(backend, logits, forbid=(2,), temperature=temperature, draws=keys)
    p = distribution(ROW, (2,), temperature, top_k, top_p)
    counts = np.bincount(got.sample.numpy(), minlength=len(p))
    assert (counts[p == 0] == 0).all()
    left = p > 0
    chi, free = float((((counts - rows * p) ** 2)[left] / (rows * p)[left]).sum()), left.sum() - 1
    assert chi <= free + 5 * math.sqrt(2 * free)
    assert got.sample_prob.numpy() == pytest.approx(p[got.sample.numpy()], rel=2e-6)


def test_samples_are_keyed_by_seed_position_forward_and_purpose(backend):
    rows = 40 if interpreted(backend) else 400
    logits = torch.zeros(rows, 50)
    base = stats(backend, logits, draws=draws(rows)).sample
    assert base.equal(stats(backend, logits, draws=draws(rows)).sample)
    shifted = stats(backend, logits, draws=draws(rows, position=torch.arange(rows) + 7)).sample
    assert shifted[:-7].equal(base[7:])
    for other in ({"seed": 4}, {"seed": 3 + 2**32}, {"forward": 1}, {"purpose": NOISE}):
        sample = stats(backend, logits, draws=draws(rows, **other)).sample
        assert (sample != base).float().mean() > 0.8, other


def test_a_row_without_a_candidate_draws_its_current_token(backend):
    logits = torch.tensor([[-INF, -INF, NAN], [0.0, -INF, -INF], [0.0, 1.0, 2.0]])
    got = stats(backend, logits, torch.tensor([9, 7, 5]), forbid=(0,), draws=draws(3))
    assert got.sample[:2].tolist() == [9, 7] and got.sample_prob[:2].tolist() == [0.0, 0.0]
    assert got.sample[2] in (1, 2) and got.bad.tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_company(backend, two_threads, dtype):
    vocab = 3000 if interpreted(backend) else 40_000
    logits = (torch.randn(8, vocab, generator=torch.Generator().manual_seed(5)) * 3).to(dtype)
    logits[5, 1] = NAN
    heat = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 0.7, 1.0, 1.3])
    keys = draws(8, top_k=torch.tensor([0, 5, 0, 0, 9, 0, 0, 3]), top_p=0.95)

    def bits(rows):
        part = ops.RowDraws(*(x[rows] for x in keys.fields()))
        flags = {"forbid": (2,), "entropy": True, "top_k": 5, "temperature": heat[rows]}
        got = stats(backend, logits[rows], torch.tensor(rows), draws=part, **flags)
        return torch.cat([x.double().view(len(rows), -1) for x in vars(got).values()], dim=1)

    every = list(range(8))
    two_threads(False)
    together = bits(every)
    assert torch.cat([bits([r]) for r in every]).equal(together)
    assert bits(every[::-1]).equal(together.flip(0))
    two_threads(True)
    assert bits(every).equal(together)


def test_no_rows_are_fine(backend):
    got = stats(backend, torch.zeros(0, 5), entropy=True, top_k=3, draws=draws(0))
    assert got.top_tokens.shape == got.top_probs.shape == (0, 3)
    assert len(got.sample) == len(got.sample_prob) == 0


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"top_k": 9}, ValueError, "top_k .*9"),
        ({"top_k": -1}, ValueError, "top_k .*-1"),
        ({"top_k": 2.0}, ValueError, r"top_k .*2\.0"),
        ({"temperature": torch.ones(3)}, ValueError, r"temperature .*\[3\]"),
        ({"temperature": torch.ones(2).double()}, ValueError, "temperature .*float64"),
        ({"temperature": torch.ones(2, device="meta")}, ValueError, "temperature .*meta"),
        ({"draws": draws(3)}, ValueError, r"draws\.seed .*\[3\]"),
        ({"draws": replace(draws(2), top_p=torch.ones(2).double())}, ValueError, r"draws\.top_p"),
        ({"draws": replace(draws(2), top_k=torch.ones(2))}, ValueError, r"draws\.top_k .*float32"),
        ({"draws": replace(draws(2), forward=torch.ones(2).int())}, ValueError, r"draws\.forward"),
    ],
)
def test_wrong_arguments_raise_and_name_the_value(change, error, named):
    with pytest.raises(error, match=named):
        stats("reference", torch.zeros(2, 4), **change)


def test_a_purpose_has_eight_bits():
    for purpose in (-1, 256):
        with pytest.raises(ValueError, match=str(purpose)):
            draws(2, purpose=purpose)


@pytest.mark.parametrize("only", [0, 4, 99])
def test_rows_that_hold_another_id_are_not_read(backend, only):
    logits = torch.randn(9, 300, generator=torch.Generator().manual_seed(2)) * 3
    current = torch.tensor([4, 0, 4, 2, 299, 4, 0, -1, 400])
    logits[0], logits[1, 5] = NAN, INF  # bad rows, of which one is read at a time
    asked = {"forbid": (4,), "entropy": True, "top_k": 2, "draws": draws(9)}
    every = stats(backend, logits, current, **asked)
    got = stats(backend, logits, current, only=only, **asked)
    nothing = {"token": current, "sample": current, "lse": -INF, "top_tokens": -1, "bad": False}
    read = current == only
    for name, value in vars(got).items():
        assert value.dtype == getattr(every, name).dtype
        assert value[read].equal(getattr(every, name)[read]), name
        want = nothing.get(name, 0)
        assert (value[~read] == (want[~read] if name in ("token", "sample") else want)).all(), name


def test_only_in_blocks_and_with_a_temperature_per_row(backend):
    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(3))
    current = torch.tensor([[7, 1, 7, 7], [1, 1, 1, 1], [7, 7, 7, 7]])
    heat = torch.linspace(0.5, 2, 12).view(3, 4)
    every = stats(backend, logits, current, temperature=heat)
    got = stats(backend, logits, current, temperature=heat, only=7)
    assert got.prob.equal(torch.where(current == 7, every.prob, 0))
    assert got.token.equal(torch.where(current == 7, every.token, current))


@pytest.mark.parametrize("only", [1.5, True, 2**64 + 1, "7"])
def test_only_is_an_id(only):
    with pytest.raises(ValueError, match="only must be a token id"):
        ops.row_stats(torch.zeros(1, 4), torch.tensor([0]), only=only)
