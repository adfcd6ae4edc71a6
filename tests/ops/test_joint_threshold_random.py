"""The decision step on random blocks against the oracle, and at the very edge of a threshold."""

import math
from collections import Counter

import numpy as np
import oracle
import pytest
import torch
from blocks import STATE, as_blocks, as_tensors, interpreted, random_batch, step, values
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_any_block_is_decided_as_the_oracle_does(backend):
    tally = Counter()

    @settings(max_examples=40 if interpreted(backend) else 250, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        blocks=st.integers(1, 5),
        length=st.integers(1, 9),
        vocab=st.sampled_from([2, 3, 7, 33, 150]),
        dtype=st.sampled_from(DTYPES),
        strict=st.booleans(),
        tensors=st.booleans(),
    )
    def run(seed, blocks, length, vocab, dtype, strict, tensors):
        ids, logits, editable, state, mask, chosen = random_batch(
            seed, blocks, length, vocab, dtype
        )
        if tensors:
            options = as_tensors(chosen)
        else:
            options = {name: value[0].item() for name, value in chosen.items()}
            chosen = {name: [value] * blocks for name, value in options.items()}
        forbid = [0] if seed % 3 == 0 else []
        rules = {"forbid": forbid, "strict_reference": strict, "mask_token_id": mask}
        new_ids, new_state = step(backend, ids, logits, editable, state, **rules, **options)
        old = as_blocks(ids.tolist(), editable.tolist(), state)
        new = as_blocks(new_ids, editable.tolist(), new_state)
        for b in range(blocks):
            mine = {name: value[b] for name, value in chosen.items()}
            want = oracle.step(old[b], logits[b].double().numpy(), **rules, **mine)
            tally["blocks"] += 1
            tally["uncertain"] += not want.certain
            assert new[b] == want or not want.certain

    run()
    assert tally["uncertain"] < 0.02 * tally["blocks"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_has_the_same_result_in_any_company(backend, two_threads, dtype):
    count, length = (4, 5) if interpreted(backend) else (12, 8)
    ids, logits, editable, state, mask, chosen = random_batch(5, count, length, 3001, dtype)
    options = as_tensors(chosen)

    def run(rows):
        part = ops.StepState(*(getattr(state, name)[rows] for name in STATE))
        got, new = step(
            backend,
            ids[rows],
            logits[rows],
            editable[rows],
            part,
            mask_token_id=mask,
            **{name: value[rows] for name, value in options.items()},
        )
        return list(zip(got, values(new), strict=True))

    every = list(range(count))
    two_threads(False)
    together = run(every)
    assert together != list(zip(ids.tolist(), values(state), strict=True))
    assert [run([b])[0] for b in every] == together
    assert run(every[::-1]) == together[::-1]
    two_threads(True)
    assert run(every) == together


@pytest.mark.parametrize("share", [2, 10])
def test_a_probability_equal_to_the_threshold_is_not_above_it(backend, share):
    """p = 1/2 and fp32(1/10) exactly; as a double 0.1 lies below fp32(0.1)."""
    mask = share  # has a logit of -inf, so the others share evenly
    logits = torch.zeros(1, 3, share + 1)
    logits[..., mask] = -math.inf
    logits[0, 2, 1] = 9.0
    for threshold, commits in ((1 / share, False), (np.nextafter(np.float32(1 / share), 0), True)):
        ids, _ = step(
            backend,
            [[mask, 1, mask]],
            logits,
            mask_token_id=mask,
            threshold=float(threshold),
            editing_threshold=float(threshold),
        )
        assert ids == [[0, 0, 1] if commits else [mask, 1, 1]]


@pytest.mark.parametrize("threshold", [0.1, 0.7, 0.95])
def test_python_thresholds_are_compared_as_fp32(backend, threshold):
    """A logit is searched whose own probability is fp32(threshold) bit for bit."""
    if interpreted(backend):
        pytest.skip("the search takes a program for each of 800 rows")
    target = torch.tensor(threshold)
    logit = torch.full((), math.log(threshold / (1 - threshold)))
    candidates = (logit + torch.arange(-400, 400) * 2.0**-24)[:, None]
    filler = torch.tensor([0.0]) if threshold > 0.5 else torch.full((9,), -math.log(9.0))
    rows = torch.cat([candidates, filler.expand(800, -1), torch.full((800, 1), -math.inf)], dim=1)
    with ops.use_backend(backend):
        exact = ops.row_stats(rows, torch.zeros(800, dtype=torch.int64)).prob_current == target
    found = rows[exact.nonzero()[0, 0]]
    if threshold < 0.5:  # only the best token's probability counts
        assert found[0] >= found[1:].max()
    mask = len(found) - 1
    sure = torch.zeros(mask + 1)
    sure[1] = 20.0
    logits = torch.stack([found, sure])[None]
    ids, _ = step(backend, [[mask, mask]], logits, mask_token_id=mask, threshold=threshold)
    assert ids == [[mask, 1]]
    below = torch.nextafter(target, torch.tensor(0.0)).reshape(1)
    ids, _ = step(backend, [[mask, mask]], logits, mask_token_id=mask, threshold=below)
    assert ids == [[0, 1]]
