"""The best token outside a set: bit for bit that of `row_stats` with these ids forbidden."""

import math

import pytest
import torch
from blocks import interpreted
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import row_stats as expected

from fastedit import ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ODD = torch.tensor([math.nan, math.inf, -math.inf, 0.0])


def some(generator, high, *shape):
    return torch.randint(0, high, shape, generator=generator)


def check(logits, excluded, only, forbid, token, prob):
    """Every row against `row_stats` of that row alone, of the back end in use."""
    flat = [x.flatten(0, -2) for x in (logits, excluded)]
    for r, (row, ids) in enumerate(zip(*flat, strict=True)):
        got = token.flatten()[r].item(), prob.flatten()[r].item()
        if only is not None and not only.flatten()[r]:
            assert got == (-1, 0.0)
            continue
        banned = {*forbid, *(i for i in ids.tolist() if 0 <= i < len(row))}
        want = ops.row_stats(row[None], torch.tensor([-1]), forbid=sorted(banned))
        assert got == (want.token.item(), want.prob.item())
        assert got[0] == expected(row.double().numpy(), -1, sorted(banned)).token


def test_any_row_and_set_is_as_row_statistics_have_it(backend):
    @settings(max_examples=20 if interpreted(backend) else 120, deadline=None)
    @given(
        seed=st.integers(0, 2**31),
        dtype=st.sampled_from(DTYPES),
        blocks=st.integers(0, 3),
        length=st.integers(1, 4),
        vocab=st.sampled_from([1, 2, 7, 60, 1100]),
        width=st.sampled_from([0, 1, 3, 20, 70]),
        limited=st.booleans(),
        flat=st.integers(0, 2),
    )
    def run(seed, dtype, blocks, length, vocab, width, limited, flat):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(blocks, length + 1, vocab, generator=generator)[:, 1:]
        logits = (logits * 3).round().to(dtype)  # ties
        odd = some(generator, 40, *logits.shape)
        logits[odd < 3] = ODD[some(generator, 4, int((odd < 3).sum()))].to(dtype)
        # The ids lie apart, as those of a history that is kept forward by forward.
        excluded = (some(generator, vocab + 6, width, blocks, length) - 3).movedim(0, -1)
        only = some(generator, 2, blocks, length) > 0 if limited else None
        forbid = sorted({*some(generator, vocab, seed % 3).tolist()})
        if flat:
            excluded = excluded.flatten(0, 1)
            only = None if only is None else only.flatten()
        if flat == 2:
            logits = logits.flatten(0, 1)
        with ops.use_backend(backend):
            token, prob = ops.best_outside(logits, excluded, only=only, forbid=forbid)
            assert token.shape == prob.shape == excluded.shape[:-1]
            check(logits, excluded, only, forbid, token, prob)

    run()


def test_a_large_vocabulary_and_a_long_history(backend, two_threads):
    """Every id that was ever the best here, one after the other, on any number of threads."""
    if interpreted(backend):
        pytest.skip("too large for the interpreter; tests/kernels has several splits")
    logits = torch.randn(2, 3, 50_001, generator=torch.Generator().manual_seed(5)).half()
    order = logits[1, 2].sort(descending=True, stable=True).indices
    history = torch.full((2, 3, 12), -1)
    only = torch.zeros(2, 3, dtype=torch.bool)
    only[1, 2] = True
    for turn in range(12):
        two_threads(turn % 2)
        with ops.use_backend(backend):
            token, _ = ops.best_outside(logits, history, only=only)
        assert token[1, 2] == order[turn] and token.sum() == order[turn] - 5
        history[1, 2, turn] = token[1, 2]
    with ops.use_backend(backend):
        check(logits, history, only, (), *ops.best_outside(logits, history, only=only))
        two_threads(True)
        check(logits, history, None, (3,), *ops.best_outside(logits, history, forbid=(3,)))


def test_arguments_that_do_not_fit_are_named():
    logits, excluded = torch.zeros(2, 3, 5), torch.zeros(2, 3, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="logits must be float32"):
        ops.best_outside(logits.long(), excluded)
    with pytest.raises(ValueError, match=r"excluded must be int64 \[2, 3, 'K'\] or \[6, 'K'\]"):
        ops.best_outside(logits, excluded[:1])
    with pytest.raises(ValueError, match=r"got torch\.int32"):
        ops.best_outside(logits, excluded.int())
    with pytest.raises(ValueError, match=r"only must be torch\.bool"):
        ops.best_outside(logits, excluded, only=torch.ones(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="forbid holds 5"):
        ops.best_outside(logits, excluded, forbid=(5,))
