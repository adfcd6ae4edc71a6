"""The C++ back end: every instruction set, threads, draws, strides and what it does not touch."""

import ctypes
import math
from collections import Counter

import oracle
import pytest
import torch
from blocks import random_batch, values
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops
from fastedit.ops import library
from fastedit.ops.dispatch import ORDER, demanded
from fastedit.ops.sampling import DECODE, philox

pytestmark = pytest.mark.skipif(
    bool(library.why_not()), reason=f"C++ back end: {library.why_not()}"
)
ALL_SETS = ["avx512", "avx2", "portable"]
STATS = ["token", "prob", "prob_current", "lse", "entropy", "bad"]


def works(name: str) -> bool:
    before = library.instruction_set()
    try:
        library.use_instruction_set(name)
    except ValueError:
        return False
    library.use_instruction_set(before)
    return True


# `make emulate-avx512` has the first on every x86 with AVX2.
SETS = [] if library.why_not() else [name for name in ALL_SETS if works(name)]


@pytest.fixture(params=SETS)
def instruction_set(request):
    before = library.instruction_set()
    library.use_instruction_set(request.param)
    yield request.param
    library.use_instruction_set(before)


def stats_of(logits, current=None, backend="cpp", **options):
    current = torch.zeros(len(logits), dtype=torch.int64) if current is None else current
    with ops.use_backend(backend):
        stats = ops.row_stats(logits, current, entropy=True, **options)
        # Without the entropy a tile is read once where it can be, and that changes no bit.
        assert same(stats, ops.row_stats(logits, current, **options), but="entropy")
    return stats


def same(one, other, but="") -> bool:
    names = [name for name in STATS if name != but]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_the_fastest_set_of_this_processor_is_in_use():
    chosen = library.instruction_set()
    for better in ALL_SETS[: ALL_SETS.index(chosen)]:
        with pytest.raises(ValueError, match=better):
            library.use_instruction_set(better)
    assert library.instruction_set() == chosen
    with pytest.raises(ValueError, match="sse9"):
        library.use_instruction_set("sse9")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 2, 7, 31, 32, 63, 100, 1000, 2047, 2049, 4912, 16385, 50001])
def test_no_further_from_float64_than_torch(instruction_set, vocab, dtype):
    """Widths around every boundary: vector, step, tile and split."""
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(6, vocab, generator=generator) * torch.tensor([[0.1], [1], [3]] * 2)).to(
        dtype
    )
    got = stats_of(logits)
    truth = logits.double().softmax(-1)
    assert torch.equal(got.token, logits.float().argmax(-1))  # ties: lowest on a CPU
    rows = torch.arange(6)
    eps = torch.finfo(torch.float32).eps
    for probs, token in ((got.prob, got.token), (got.prob_current, torch.zeros_like(got.token))):
        exact = truth[rows, token]
        peer = logits.float().softmax(-1)[rows, token].double()
        furthest = [((p.double() - exact).abs() / exact).max() for p in (probs, peer)]
        assert furthest[0] <= furthest[1] + 2 * eps
    entropy = torch.special.entr(truth).sum(-1)
    assert (got.entropy.double() - entropy).abs().max() <= 4 * eps * (1 + entropy.max())
    assert (got.lse.double() - logits.double().logsumexp(-1)).abs().max() <= 2 * eps * 16


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize(
    "level",
    [
        lambda i: (i - 5000) * 0.1,  # climbs by more in a tile than a sum has room for
        lambda i: (5000 - i) * 0.1,
        lambda i: torch.where(i < 4096, -math.inf, 1.0),  # nothing finite in the first tiles
        lambda i: torch.where(i == 0, -3e38, 0.0),
        lambda i: torch.where(i == 9_999, 3e38, 0.0),
        lambda i: torch.where(i == 5_000, math.nan, 1e5),
        lambda i: torch.where(i % 3 == 0, math.inf, 0.0),
        lambda i: torch.full_like(i, -math.inf),
    ],
)
def test_rows_that_jump(instruction_set, level, temperature):
    """What a tile's sum is taken against comes from the tiles before it, and may be far off."""
    logits = level(torch.arange(10_000.0)) + torch.randn(4, 10_000)
    logits[:, 7_000] = logits[:, 9_000]
    current = torch.tensor([0, 5_000, 7_000, 9_999])
    got = stats_of(logits, current, temperature=temperature)
    for r, row in enumerate(logits):
        want = oracle.row_stats(row.double().numpy(), int(current[r]), temperature=temperature)
        assert (int(got.token[r]), bool(got.bad[r])) == (want.token, want.bad)
        for name in ("prob", "prob_current", "lse"):
            exact = min(getattr(want, name), oracle.LARGEST)
            assert float(getattr(got, name)[r]) == pytest.approx(exact, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [5, 100, 2047, 2049, 16385, 40001])
def test_requests_of_every_set_are_answered_as_the_reference_does(instruction_set, vocab, dtype):
    """The best tokens exactly; draws but for those within rounding of a boundary between two."""
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(12, vocab, generator=generator) * 3
    logits[1::2] = logits[1::2].round()  # ties everywhere
    logits[2], logits[3] = torch.linspace(-9, 9, vocab), torch.linspace(9, -9, vocab)
    logits[4, 2:4], logits[5, 1], logits[6] = math.nan, math.inf, -math.inf
    logits = logits.to(dtype)
    flags = {
        "forbid": sorted({0, vocab // 2, *logits[7:10].float().argmax(-1).tolist()}),
        "temperature": torch.linspace(0.4, 2, 12),
        "top_k": 8,
        "draws": ops.RowDraws(
            torch.arange(12) - 3,
            torch.arange(12) * 2**33,
            torch.arange(12) % 3,
            torch.tensor([0, 0, 7, 0, 40, 0, 3, 0, 0, 1, 0, 2]),
            torch.tensor([1.0, 0.9, 1.0, 0.5] * 3),
        ),
    }
    current = torch.full((12,), 4)
    got = stats_of(logits, current, **flags)
    want = stats_of(logits, current, backend="reference", **flags)
    assert got.top_tokens.equal(want.top_tokens)
    torch.testing.assert_close(got.top_probs, want.top_probs, rtol=2e-5, atol=1e-37)
    assert int((got.sample != want.sample).sum()) <= 1
    alike = got.sample == want.sample
    torch.testing.assert_close(got.sample_prob[alike], want.sample_prob[alike], rtol=2e-5, atol=0)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(1, 4),
    length=st.integers(1, 9),
    vocab=st.sampled_from([2, 3, 33, 150, 2100]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_all_sets_decide_alike(seed, blocks, length, vocab, dtype):
    ids, logits, editable, state, mask, chosen = random_batch(seed, blocks, length, vocab, dtype)
    settings = {name: torch.from_numpy(value) for name, value in chosen.items()}
    for name in settings:
        kind = torch.float32 if "threshold" in name else torch.int32
        settings[name] = settings[name].to(kind)
    results, before = [], library.instruction_set()
    for name in SETS[SETS.index(before) :]:
        library.use_instruction_set(name)
        mine, now = ids.clone(), ops.StepState(*(field.clone() for field in state.fields()))
        with ops.use_backend("cpp"):
            ops.joint_threshold_step_(mine, logits, editable, now, mask_token_id=mask, **settings)
        results.append((mine.tolist(), values(now)))
    library.use_instruction_set(before)
    assert results[0] == results[-1]


def test_company_threads_and_strides_change_no_bit(instruction_set, two_threads):
    """Rows long enough for several splits; a view that starts at an odd address."""
    storage = torch.randn(9, 40_001).bfloat16()
    logits = storage[:, 1:40_000]
    alone = [stats_of(row[None].clone()) for row in logits]
    for threads in (False, True):
        two_threads(threads)
        together = stats_of(logits)
        backwards = stats_of(logits.flip(0))
        for r, want in enumerate(alone):
            for name in STATS:
                assert getattr(together, name)[r] == getattr(want, name)[0]
                assert getattr(backwards, name)[8 - r] == getattr(want, name)[0]


def test_threads_of_their_own_give_the_same(two_threads):
    """Without an OpenMP runtime to share, threads are started per call."""
    logits = torch.randn(16, 70_001)
    two_threads(True)
    want = stats_of(logits)
    loaded = library.load()
    loaded.fe_use_openmp(None)
    try:
        assert same(stats_of(logits), want)
    finally:
        loaded.fe_use_openmp(ctypes.c_void_p(library._openmp()))


def test_huge_logits_keep_their_order_and_shares(instruction_set):
    """Beyond 2^21 the exponent has no room for a fraction; the largest float is legal."""
    logits = torch.tensor([[3e6, 3e6, -3e6, 2.9e6], [3.4e38, -3.4e38, 3.4e38, 0.0]])
    got = stats_of(logits)
    assert got.token.tolist() == [0, 0] and got.prob.tolist() == [0.5, 0.5]
    assert not got.bad.any()


def test_tensors_that_are_not_dense_are_written_all_the_same():
    logits = torch.full((2, 3, 5), -9.0)
    logits[..., 2] = 9.0
    ids = torch.full((3, 2), 4).t()
    state = ops.StepState(*(torch.stack((f, f), 1)[:, 0] for f in ops.StepState.new(2).fields()))
    with ops.use_backend("cpp"):
        ops.joint_threshold_step_(
            ids,
            logits,
            torch.ones(3, 2).bool().t(),
            state,
            mask_token_id=4,
            threshold=0.5,
            editing_threshold=None,
            max_post_steps=1,
        )
    assert ids.tolist() == [[2] * 3] * 2 and state.m2t_commits.tolist() == [3, 3]


def test_random_words_are_those_of_the_reference():
    loaded = library.load()
    for seed, position, forward in [(0, 0, 0), (-1, 2**31, 7), (2**63 - 1, 12, 2**32 - 1)]:
        word, *_ = philox(
            torch.tensor(seed), torch.tensor(0), torch.tensor(position), torch.tensor(forward), 3
        )
        assert loaded.fe_philox(seed % 2**64, 0, position, forward, DECODE) == int(word)


def test_draws_are_those_of_the_reference():
    """Equal but for draws within rounding of a boundary, which are counted."""
    tally = Counter()
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        vocab = [5, 40, 3000][seed % 3]
        logits = torch.randn(4, 8, vocab, generator=generator) * 2
        if seed % 2:
            logits = logits.round()  # ties at every boundary
        logits[0, 0, :2] = torch.tensor([math.nan, -math.inf])
        sampling = ops.Sampling(
            temperature=torch.tensor([1.0, 0.6, 1.5, 0.0]),
            top_k=torch.tensor([0, 3, vocab + 4, 2]),
            top_p=torch.tensor([0.9, 1.0, 0.4, 0.5])[torch.randperm(4, generator=generator)],
            seed=torch.arange(4) - seed * 10**12,
            start=torch.tensor([0, 32, 64, 10**6]),
        )
        results = []
        for backend in ("reference", "cpp"):
            ids, state = torch.full((4, 8), vocab - 1), ops.StepState.new(4)
            with ops.use_backend(backend):
                ops.joint_threshold_step_(
                    ids,
                    logits,
                    torch.ones(4, 8).bool(),
                    state,
                    mask_token_id=vocab - 1,
                    threshold=0.0,
                    editing_threshold=None,
                    max_post_steps=4,
                    forbid=(0,),
                    sampling=sampling,
                )
            assert not (ids == 0).any() and not (ids == vocab - 1).any()
            results.append(ids)
        tally["draws"] += ids.numel()
        tally["other"] += int((results[0] != results[1]).sum())
    assert tally["other"] <= 0.002 * tally["draws"], tally


@pytest.mark.parametrize("mode", ["argmax", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_drafts_of_every_set_are_those_of_the_reference(instruction_set, mode, dtype):
    """Equal but for draws within rounding of a boundary; few, and none among the argmaxes."""
    rows, vocab = 400, 3000
    generator = torch.Generator().manual_seed(2)
    logits = (torch.randn(rows, vocab, generator=generator) * 2).to(dtype)
    logits[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    options = ops.DraftOptions(
        mask_token_id=vocab, forbid=(5,), draft_mode=mode, keep_mask=0.1, random_scope="both"
    )
    xt = torch.where(torch.arange(rows) % 9 > 0, vocab, 7)
    key = ops.DraftKey(1, 2, torch.arange(rows), torch.arange(rows))
    got, want = [], []
    for backend, fields in (("cpp", got), ("reference", want)):
        with ops.use_backend(backend):
            drafted = ops.draft_and_corrupt(logits, xt, 0 * xt, xt > 0, options, key)
        fields += [drafted.z, drafted.labels, drafted.kinds, drafted.bad]
    assert all(one.equal(two) for one, two in zip(got[1:], want[1:], strict=True))
    assert int((got[0] != want[0]).sum()) <= (2 if mode == "sample" else 0)


@pytest.mark.skipif(demanded() not in (None, "cpp"), reason="another back end is demanded")
def test_it_serves_the_cpu_by_default():
    report = ops.backend_report("cpu")
    assert all(row["cpp"] == "in use" for row in report.values())
    assert list(ORDER) == ["triton", "cpp", "reference"]


def test_a_library_of_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    library.load.cache_clear()
    try:
        assert "another release" in library.why_not()
    finally:
        library.load.cache_clear()


def test_a_missing_library_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libfastedit_cpu.so")
    assert "no C++ compiler" in library.why_not()
