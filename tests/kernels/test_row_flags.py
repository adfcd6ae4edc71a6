"""Row statistics on request from rows of several splits: the best tokens, temperatures, draws."""

import math

import pytest
import torch

from fastedit import ops

FORBID = (0, 4, 8200, 16_999)


def rows(dtype=torch.float32):
    """Five rows of three splits, with ties across them and the best of one row forbidden."""
    logits = torch.randn(5, 17_000, generator=torch.Generator().manual_seed(7)).mul(1.5)
    logits[1] = logits[1].round()
    logits[2, :16_390] = -math.inf
    logits[3, [4, 8200, 9000, 16_999]] = 9.0
    logits[4, 100], logits[4, 200] = math.nan, math.inf
    return logits.to(dtype)


def requested(backend, logits, rows=slice(None), **flags):
    draws = ops.RowDraws(
        torch.arange(5) * 2**40 - 1,
        torch.arange(5) + 30,
        torch.arange(5) % 2,
        torch.zeros(5, dtype=torch.int64),  # filters read a row once per bit, slowly in here:
        torch.ones(5),  # a small vocabulary has them
    )
    flags = {
        "forbid": FORBID,
        "temperature": torch.tensor([1.0, 0.6, 1.0, 2.0, 1.3])[rows],
        "top_k": 3,
        "draws": ops.RowDraws(*(field[rows] for field in draws.fields())),
    } | flags
    with ops.use_backend(backend):
        return vars(ops.row_stats(logits[rows], torch.arange(5)[rows], **flags))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_several_splits_equal_the_reference(triton, poisoned, dtype):
    logits, some = rows(dtype), slice(0, 5) if dtype == torch.float32 else slice(1, 4)
    got, want = requested(triton, logits, some), requested("reference", logits, some)
    for name in ("token", "bad", "top_tokens", "sample"):
        assert got[name].equal(want[name]), name
    for name in ("prob", "prob_current", "lse", "top_probs", "sample_prob"):
        torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-30)
    assert len((got["top_tokens"][1 - some.start] // 8192).unique()) > 1  # not all from one split


def test_draws_under_filters_equal_the_reference(triton, poisoned):
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(8)).mul(2)
    logits[1] = logits[1].round()
    logits[2, 3], logits[3, 5], logits[4] = math.nan, math.inf, -math.inf
    zero = torch.zeros(5, dtype=torch.int64)
    top_k, top_p = torch.tensor([0, 6, 4, 0, 3]), torch.tensor([0.8, 1.0, 0.6, 0.0, 0.9])
    draws = ops.RowDraws(zero - 5, zero + 9, torch.arange(5), top_k, top_p, purpose=77)
    got, want = (
        requested(backend, logits, forbid=(0, 4), draws=draws, top_k=8)
        for backend in (triton, "reference")
    )
    for name in ("token", "bad", "top_tokens", "sample"):
        assert got[name].equal(want[name]), name
    torch.testing.assert_close(got["sample_prob"], want["sample_prob"], rtol=5e-6, atol=0)
    assert got["sample"][4] == 4 and got["sample_prob"][4] == 0.0


@pytest.mark.parametrize("top_k", [1, 8])
def test_any_number_of_best_tokens_has_room_in_the_workspace(triton, poisoned, top_k):
    """More than one split has candidates for; and a row with fewer than that."""
    logits = rows()[1:3].clone()
    logits[1] = -math.inf
    logits[1, [0, 3, 12_000, 16_500]] = torch.tensor([5.0, 1.0, 2.0, 2.0])
    flags = {"top_k": top_k, "temperature": 1.0, "draws": None}
    for forbid in ((), FORBID):
        got = requested(triton, logits, slice(0, 2), forbid=forbid, **flags)
        want = requested("reference", logits, slice(0, 2), forbid=forbid, **flags)
        assert got["top_tokens"].equal(want["top_tokens"])


def test_nothing_depends_on_company_and_shares(triton, poisoned, monkeypatch):
    logits = rows()
    want = requested(triton, logits, slice(2, 4), entropy=True)
    monkeypatch.setattr("fastedit_kernels.row_stats.splits_per_program", lambda *_: 2)
    got = requested(triton, logits, slice(3, 4), entropy=True)
    assert all(got[name].equal(want[name][1:]) for name in got)


def test_flags_leave_the_other_fields_as_they_are(triton, poisoned):
    logits = rows()[:2]
    plain = {"draws": None, "top_k": 0, "temperature": 0.7, "entropy": True}
    want = requested(triton, logits, slice(0, 2), **plain)
    heat = torch.full((2,), 0.7)
    got = requested(triton, logits, slice(0, 2), **plain | {"top_k": 8, "temperature": heat})
    assert all(value is None or value.equal(got[name]) for name, value in want.items())
