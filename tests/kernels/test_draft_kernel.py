"""Drafts and corruption from rows of several splits, and nothing read or left behind in vain."""

import math
from dataclasses import replace

import pytest
import torch

from fastedit import ops

MASK = 1
OPTIONS = ops.DraftOptions(mask_token_id=MASK, forbid=(16000,), p_random=0.2, random_scope="both")
ROWS = torch.arange(10)
CLEAN = ROWS * 1999
MASKED = torch.where(ROWS % 5 > 0, MASK, CLEAN)


def drafted(backend, logits, options=OPTIONS, rows=ROWS, eligible=None):
    eligible = torch.ones(len(rows), dtype=torch.bool) if eligible is None else eligible
    key = ops.DraftKey(seed=8, epoch=1, example=rows // 4, position=rows, turn=2)
    with ops.use_backend(backend):
        got = ops.draft_and_corrupt(logits[rows], MASKED[rows], CLEAN[rows], eligible, options, key)
    return vars(got)


@pytest.mark.parametrize(("mode", "dtype"), [("argmax", torch.bfloat16), ("sample", torch.float32)])
def test_rows_of_several_splits_equal_the_reference(triton, poisoned, mode, dtype):
    logits = torch.randn(10, 20000, generator=torch.Generator().manual_seed(4)).to(dtype)
    logits[2, 7], logits[3], logits[7, :16500] = math.nan, -math.inf, -math.inf
    options = replace(OPTIONS, draft_mode=mode)
    got, want = drafted(triton, logits, options), drafted("reference", logits, options)
    for name in ("z", "labels", "kinds", "n_err", "bad"):
        assert got[name].equal(want[name]), name
    torch.testing.assert_close(got["p_draft"], want["p_draft"], rtol=2e-6, atol=0)
    assert {0, 1, 2, 6} == set(got["kinds"].tolist())
    places = got["z"][got["kinds"] == 2] // 8192
    assert len(places.unique()) > 1  # not all from one split
    again = drafted(triton, logits, options, rows=ROWS[[8, 7, 4, 3]])
    assert all(again[n].equal(got[n][[8, 7, 4, 3]]) for n in ("z", "kinds", "p_draft", "bad"))


@pytest.mark.parametrize("per_program", [1, 2, 3])
def test_nothing_depends_on_how_splits_are_shared_out(triton, poisoned, monkeypatch, per_program):
    logits = torch.randn(10, 20000, generator=torch.Generator().manual_seed(5))
    options = replace(OPTIONS, draft_mode="sample")
    want = drafted(triton, logits, options, ROWS[5:8])
    monkeypatch.setattr(
        "fastedit_kernels.draft_and_corrupt.splits_per_program", lambda *_: per_program
    )
    got = drafted(triton, logits, options, ROWS[5:8])
    assert all(got[name].equal(want[name]) for name in got)


def test_only_rows_that_become_a_draft_are_read(triton, kernels, monkeypatch):
    """The splits of others stay as they were in the workspace."""
    _, arrivals = kernels
    works = []

    def fresh(device, spots):
        works.append(arrivals.Workspace.new(device, spots))
        works[-1].numbers.fill_(math.nan)
        return works[-1]

    monkeypatch.setattr("fastedit_kernels.draft_and_corrupt.workspace", fresh)
    options = replace(OPTIONS, keep_mask=0.3, p_random=0.3, forbid=())
    got = drafted(triton, torch.zeros(10, 50), options, eligible=ROWS != 3)
    read = ~works[0].numbers[:10].isnan()
    assert read.equal(got["kinds"] == 2) and {1, 2, 6} <= set(got["kinds"].tolist())
    assert not works[0].counters.any()
