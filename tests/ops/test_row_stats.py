"""Row statistics against float64 NumPy, and the same bits in any company."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from blocks import interpreted
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LARGEST, TINY
from oracle import row_stats as expected

from fastedit import ops

INF, NAN = math.inf, math.nan
EPS = float(np.finfo(np.float32).eps)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
VALUES = st.one_of(
    st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1.0, LARGEST, -LARGEST, 1e-40, 88.0, -104.0]),
    st.floats(-30, 30, width=32),
)


def fields(stats):
    """Those that were asked for, in order."""
    return [field for field in vars(stats).values() if field is not None]


def check(stats, logits, current, forbid=(), temperature=1.0):
    """Every row of `stats` against the oracle; tokens and flags exactly."""
    vocab = logits.shape[1]
    for r, row in enumerate(logits.double().numpy()):
        want = expected(row, int(current[r]), forbid, temperature)
        assert bool(stats.bad[r]) == want.bad
        token = int(stats.token[r])
        spread = 0.0
        if temperature == 1.0 or not want.exists:
            assert token == want.token
        else:  # a division may round two logits onto each other
            spread = 4 * EPS * np.abs(row[np.isfinite(row)]).max() / temperature
            assert token not in forbid
            assert want.distance[token] <= want.distance[want.token] + spread
        places = [(stats.prob[r], want.prob, token)]
        if 0 <= current[r] < vocab:
            places.append((stats.prob_current[r], want.prob_current, int(current[r])))
        else:
            assert stats.prob_current[r] == 0.0
        for got, p, i in places:
            far = min(want.distance[i], 1e4) if p > 0 else 0.0
            slack = EPS * (8 + math.sqrt(vocab) + 2 * far) + spread
            assert abs(float(got) - p) <= p * slack + TINY
        slack = EPS * (16 + 2 * math.sqrt(vocab)) + 2 * spread
        if math.isfinite(want.lse):
            assert abs(float(stats.lse[r]) - want.lse) <= slack + 2 * EPS * abs(want.lse)
        else:
            assert stats.lse[r] == want.lse
        if stats.entropy is not None:
            assert abs(float(stats.entropy[r]) - want.entropy) <= slack * (4 + want.entropy)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 9).flatmap(
        lambda v: st.lists(st.lists(VALUES, min_size=v, max_size=v), min_size=1, max_size=3)
    ),
    dtype=st.sampled_from(DTYPES),
    current=st.integers(-2, 11),
    forbid=st.sets(st.integers(0, 8), max_size=3),
)
def test_any_small_row_matches_the_oracle(backend, rows, dtype, current, forbid):
    logits = torch.tensor(rows).to(dtype)
    if interpreted(backend) and dtype == torch.bfloat16:
        logits[logits.abs() < TINY] = 0.0  # Triton's interpreter widens subnormal bf16 wrongly
    forbid = [token for token in forbid if token < logits.shape[1]]
    current = torch.full((len(rows),), current)
    with ops.use_backend(backend):
        stats = ops.row_stats(logits, current, forbid=forbid, entropy=True)
    check(stats, logits, current, forbid)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.integers(1, 300),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 1.5, 100.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_temperature_matches_the_oracle(backend, seed, vocab, temperature, dtype):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(3, vocab)) * rng.choice([0.1, 3, 30])).to(dtype)
    current = torch.from_numpy(rng.integers(vocab, size=3))
    forbid = rng.choice(vocab, size=rng.integers(min(vocab, 4)), replace=False).tolist()
    with ops.use_backend(backend):
        stats = ops.row_stats(logits, current, forbid=forbid, temperature=temperature, entropy=True)
    check(stats, logits, current, forbid, temperature)


@pytest.mark.parametrize("vocab", [1, 2, 31, 63, 100, 1000, 4912, 8191, 8193, 50001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_and_odd_vocabularies_match_the_oracle(backend, vocab, dtype):
    if interpreted(backend) and vocab > 10000:
        pytest.skip("too large for the interpreter; tests/kernels has several splits")
    rng = np.random.default_rng(vocab)
    rows = rng.normal(size=(7, vocab)) * np.array([[0, 0.01, 1, 3, 10, 1, 1]]).T
    rows[5, rng.integers(vocab, size=vocab // 3 + 1)] = -np.inf
    rows[6, rng.integers(vocab, size=3)] = np.nan
    logits = torch.from_numpy(rows).to(dtype)
    current = torch.from_numpy(rng.integers(vocab, size=7))
    with ops.use_backend(backend):
        stats = ops.row_stats(logits, current, forbid=[vocab // 2], entropy=True)
    check(stats, logits, current, [vocab // 2])


@pytest.mark.parametrize(
    ("row", "token", "prob", "bad"),
    [
        ([1.0, 5.0, 5.0, 5.0], 1, 0.3313, False),  # ties go to the lowest id
        ([-0.0, 0.0], 0, 0.5, False),  # both zeros are equal
        ([NAN, 0.0, 0.0], 1, 0.5, True),
        ([0.0, INF, INF], 1, 0.5, True),
        ([-INF, 2.0, -INF], 1, 1.0, False),
        ([-INF, -INF], 7, 0.0, True),
        ([NAN, NAN], 7, 0.0, True),
        ([NAN, -INF], 7, 0.0, True),
        ([-3e38], 0, 1.0, False),
        ([-104.0, 0.0], 1, 1.0, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_special_values_follow_the_table(backend, row, token, prob, bad, dtype):
    with ops.use_backend(backend):
        logits = torch.tensor([row]).to(dtype)
        stats = ops.row_stats(logits, torch.tensor([7]), entropy=True)
    assert (int(stats.token), bool(stats.bad)) == (token, bad)
    assert float(stats.prob) == pytest.approx(prob, abs=1e-4)
    assert float(stats.prob_current) == 0.0
    assert not stats.entropy.isnan() and not stats.lse.isnan()


def test_infinity_is_the_largest_number(backend):
    with ops.use_backend(backend):
        stats = ops.row_stats(torch.tensor([[LARGEST, INF, 0.0]]), torch.tensor([1]))
    assert (int(stats.token), float(stats.prob), float(stats.prob_current)) == (0, 0.5, 0.5)
    assert bool(stats.bad)


def test_forbidden_ids_stay_in_the_denominator(backend):
    logits, current = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
    p = logits.double().softmax(-1)[0]
    with ops.use_backend(backend):
        one = ops.row_stats(logits, current, forbid=[0])
        every = ops.row_stats(logits, current, forbid=[2, 0, 1])
    assert int(one.token) == 2 and not one.bad
    assert float(one.prob) == pytest.approx(float(p[2]), rel=1e-6)
    assert (int(every.token), float(every.prob), bool(every.bad)) == (0, 0.0, True)
    for stats in (one, every):
        assert float(stats.prob_current) == pytest.approx(float(p[0]), rel=1e-6)


@pytest.mark.parametrize("row", [[2e38, 3e38], [-3e38, -2e38]])
def test_temperature_keeps_the_best_token(row):
    with ops.use_backend("reference"):
        stats = ops.row_stats(torch.tensor([row]), torch.tensor([0]), temperature=0.5)
    assert int(stats.token) == 1 and not stats.bad


def test_rows_may_be_strided_and_are_not_written(backend):
    buffer = torch.randn(9, 203, generator=torch.Generator().manual_seed(0))
    kept = buffer.clone()
    views = [buffer[:, 1:], buffer[::2, 3:100], buffer[1:2].expand(4, -1), buffer[:, 7:8]]
    for view in views:
        current = torch.arange(len(view)) % view.shape[1]
        with ops.use_backend(backend):
            stats = ops.row_stats(view, current, forbid=[0], entropy=True)
            check(stats, view, current, [0])
    assert torch.equal(buffer, kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_vocabulary(backend, dtype):
    rows = 1 if interpreted(backend) else 3
    logits = (torch.randn(rows, 300_000, generator=torch.Generator().manual_seed(3)) * 3).to(dtype)
    logits[0, 299_999] = 20.0
    with ops.use_backend(backend):
        stats = ops.row_stats(logits, torch.full((rows,), 299_998), forbid=[7], entropy=True)
    check(stats, logits, torch.full((rows,), 299_998), [7])
    assert int(stats.token[0]) == 299_999


def test_rows_lie_beyond_what_32_bits_count(backend):
    """Of rows and of blocks whose stride fits 32 bits; 4 GiB of addresses, three pages in use."""
    vocab, far = 40, 2**30 + 8
    near = torch.randn(3, vocab, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    logits = torch.empty(2 * far + vocab, dtype=torch.bfloat16).as_strided((3, vocab), (far, 1))
    logits.copy_(near)
    current, ids = torch.tensor([3, 4, 5]), [torch.full((3, 1), 39) for _ in range(2)]
    rules = {"mask_token_id": 39, "threshold": 0.0, "editing_threshold": 0.0, "max_post_steps": 1}
    with ops.use_backend(backend):
        got, want = (ops.row_stats(x, current, entropy=True) for x in (logits, near))
        for x, chosen in zip((logits, near), ids, strict=True):
            everywhere = torch.ones(3, 1, dtype=torch.bool)
            state = ops.StepState.new(3)
            ops.joint_threshold_step_(chosen, x[:, None], everywhere, state, **rules)
    assert all(one.equal(two) for one, two in zip(fields(got), fields(want), strict=True))
    assert got.token.tolist() == near.float().max(1).indices.tolist()
    assert ids[0].equal(ids[1]) and (ids[0] != 39).all()


@pytest.mark.parametrize("vocab", [5, 1000, 40000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_any_company(backend, two_threads, vocab, dtype):
    if interpreted(backend) and vocab > 10000:
        pytest.skip("too large for the interpreter; tests/kernels has several splits")
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(8, vocab, generator=generator) * 3).to(dtype)
    logits[5, 1] = NAN
    current = torch.randint(vocab, (8,), generator=generator)

    def bits(rows):
        with ops.use_backend(backend):
            stats = ops.row_stats(logits[rows], current[rows], forbid=[2], entropy=True)
        return torch.stack([field.double() for field in fields(stats)], dim=1)

    every = list(range(8))
    two_threads(False)
    together = bits(every)
    assert torch.equal(torch.cat([bits([r]) for r in every]), together)
    assert torch.equal(bits(every[::-1]), together.flip(0))
    two_threads(True)
    assert torch.equal(bits(every), together)
    assert torch.equal(torch.cat([bits([r]) for r in every]), together)


def test_entropy_only_when_asked():
    logits, current = torch.zeros(1, 8), torch.tensor([0])
    assert ops.row_stats(logits, current).entropy is None
    assert float(ops.row_stats(logits, current, entropy=True).entropy) == pytest.approx(math.log(8))


def test_no_rows_are_fine(backend):
    with ops.use_backend(backend):
        stats = ops.row_stats(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), entropy=True)
    assert all(len(field) == 0 for field in fields(stats))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"logits": torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "float64"),
        ({"logits": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "int64"),
        ({"logits": torch.zeros(4)}, ValueError, r"\[4\]"),
        ({"logits": torch.zeros(2, 0)}, ValueError, r"\[2, 0\]"),
        ({"logits": torch.zeros(4, 2).T}, ValueError, "contiguous"),
        ({"current": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\[3\]"),
        ({"current": torch.zeros(2, dtype=torch.int32)}, ValueError, "int32"),
        ({"forbid": [4]}, ValueError, "4"),
        ({"forbid": [1, -1]}, ValueError, "-1"),
        ({"temperature": 0.0}, ValueError, "0.0"),
        ({"temperature": -2.0}, ValueError, "-2.0"),
        ({"temperature": NAN}, ValueError, "nan"),
    ],
)
def test_wrong_arguments_raise_and_name_the_value(change, error, named):
    arguments = {"logits": torch.zeros(2, 4), "current": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(error, match=named):
        ops.row_stats(**(arguments | change))


def test_results_lie_with_the_logits_whatever_the_defaults(backend):
    """A default device or dtype is of other tensors; a back end writes to bare addresses."""
    logits, current = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with ops.use_backend(backend), torch.device("meta"):
            stats = ops.row_stats(logits, current, entropy=True)
    finally:
        torch.set_default_dtype(before)
    assert stats.token.tolist() == [1] and not stats.bad.item()
    assert all(field.device == logits.device for field in fields(stats))
    assert stats.prob.dtype == stats.lse.dtype == stats.entropy.dtype == torch.float32


def test_arguments_that_were_good_before_are_looked_at_again():
    for name, odd in (
        ("logits", torch.zeros(3, 4).double()),
        ("logits", torch.zeros(4, 3).t()),
        ("current", torch.zeros(3, dtype=torch.int32)),
        ("current", torch.zeros(2, dtype=torch.int64)),
    ):
        arguments = {"logits": torch.zeros(3, 4), "current": torch.zeros(3, dtype=torch.int64)}
        ops.row_stats(**arguments)
        arguments[name].data = odd
        with pytest.raises((TypeError, ValueError), match=name):
            ops.row_stats(**arguments)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *itertools.product(["reference", "cpp"], [(3, 4), (1, 4), (3, 1), (0, 4)]),
        *(("triton", shape) for shape in ((2, 2), (0, 4))),  # the interpreter is slow
    ],
)
def test_rows_of_blocks_that_are_views_of_longer_ones(name, shape):
    """As of a forward over more rows than those that are decided on: nothing is copied."""
    blocks, length = shape
    generator = torch.Generator().manual_seed(0)
    longer = torch.randn(blocks, 2 * length + 1, 37, generator=generator)
    view = longer[:, 1 : length + 1]
    current = torch.randint(0, 37, (blocks * length,), generator=generator)
    number = torch.arange(blocks * length)
    draws = ops.RowDraws(
        number, number, number, torch.full_like(number, 3), torch.ones(len(number))
    )
    asked = {"entropy": True, "top_k": 2, "draws": draws, "forbid": (5,)}
    with ops.use_backend(name):
        want = ops.row_stats(view.reshape(-1, 37), current, **asked)
        got = ops.row_stats(view, current, **asked)
        asked["draws"] = ops.RowDraws(*(field.view(shape) for field in draws.fields()))
        in_blocks = ops.row_stats(view, current.view(shape), **asked)
    for field, mine in vars(got).items():
        assert mine.equal(getattr(want, field)), field
        there = getattr(in_blocks, field)
        assert there.shape[:2] == shape and there.flatten(0, 1).equal(mine), field
    either = re.escape(f"current must be int64 [{blocks}, {length}] or [{blocks * length}]")
    with pytest.raises(ValueError, match=either):
        ops.row_stats(view, current[None, None], **asked)


@pytest.mark.parametrize("name", ["reference", "cpp", "triton"])
@pytest.mark.parametrize("order", ["of blocks", "of places", "as they come"])
def test_one_key_may_serve_many_rows(name, order):
    """Expanded tensors are read in place, whichever dimension they were expanded along."""
    generator = torch.Generator().manual_seed(0)
    b, n = (2, 2) if name == "triton" else (3, 4)  # the interpreter is slow
    logits = torch.randn(b, n, 37, generator=generator)
    current = torch.randint(0, 37, (b, n), generator=generator)
    shape = {"of blocks": (b, 1), "of places": (1, n), "as they come": (n, b)}[order]

    def numbers(least, most):
        drawn = torch.randint(least, most, shape, generator=generator)
        return drawn.T if order == "as they come" else drawn.expand(b, n)

    keys = [numbers(0, 9) for _ in range(3)] + [numbers(1, 9), numbers(1, 9).float() / 9]
    heat = numbers(1, 9).float() / 3
    with ops.use_backend(name):
        got = ops.row_stats(logits, current, temperature=heat, draws=ops.RowDraws(*keys))
        dense = ops.RowDraws(*(key.clone() for key in keys))
        want = ops.row_stats(logits, current, temperature=heat.clone(), draws=dense)
        noise = ops.uniform(*keys[:3], purpose=4, count=5)
        flat = ops.uniform(*(key.reshape(-1) for key in keys[:3]), purpose=4, count=5)
    for field in ("token", "prob", "sample", "sample_prob"):
        assert getattr(got, field).equal(getattr(want, field)), field
    assert noise.flatten(0, 1).equal(flat)
