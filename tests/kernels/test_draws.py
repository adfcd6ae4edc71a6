"""Draws of the kernel beside those of the reference: the same tokens from the same words."""

import torch

from fastedit import ops

MASK = 9


def outcome(backend, logits, how, forbid=(), threshold=0.0, forwards=3):
    """(ids, state) of one step on all-mask blocks."""
    ids = torch.full(logits.shape[:2], MASK)
    state = ops.StepState.new(len(ids))
    state.forwards.fill_(forwards)
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids,
            logits,
            torch.ones_like(ids, dtype=torch.bool),
            state,
            mask_token_id=MASK,
            threshold=threshold,
            editing_threshold=0.5,
            max_post_steps=4,
            forbid=forbid,
            sampling=how,
        )
    return ids, state


def settings(**options):
    types = {"temperature": torch.float32, "top_p": torch.float32}
    return ops.Sampling(
        **{
            name: torch.tensor(options[name], dtype=types.get(name, torch.int64))
            for name in ("temperature", "top_k", "top_p", "seed", "start")
        }
    )


def test_draws_equal_the_reference_under_every_filter(triton):
    generator = torch.Generator().manual_seed(4)
    how = settings(
        temperature=[0.7, 1.0, 2.0, 1.0, 0.0, 1.3],
        top_k=[0, 3, 0, 40, 2, 1],
        top_p=[1.0, 1.0, 0.6, 0.9, 0.1, 1.0],
        seed=[1, -2, 2**62 + 5, 4, 5, 6],
        start=[0, 32, 64, 2**33, 7, 9],
    )
    for vocab, dtype in ((300, torch.float32), (11, torch.bfloat16)):
        logits = (torch.randn(6, 2, vocab, generator=generator) * 3).to(dtype)
        ids, state = outcome(triton, logits, how, forbid=[4], threshold=0.35)
        want, expected = outcome("reference", logits, how, forbid=[4], threshold=0.35)
        assert torch.equal(ids, want)
        assert torch.equal(state.m2t_commits, expected.m2t_commits)
        assert 0 < (ids == MASK).sum() < ids.numel()


def test_draws_from_a_row_of_several_splits_equal_the_reference(triton):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1, 6, 20000, generator=generator).half()
    how = settings(temperature=[1.0], top_k=[0], top_p=[1.0], seed=[8], start=[16])
    ids, _ = outcome(triton, logits, how)
    assert torch.equal(ids, outcome("reference", logits, how)[0])
    assert len(set((ids // 8192).flatten().tolist())) > 1  # not all from one split


def test_ties_at_both_cutoffs_and_logits_that_are_not_numbers(triton):
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0, -inf, -inf, -inf, -inf, -inf, 9.0],
            [1.0, 2.0, 1.0, 1.0, -0.0, 0.0, -1.0, -inf, nan, 9.0],
            [inf, 0.0, inf, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0],
            [2e38, 3e38, -3e38, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0],
        ]
    )
    how = settings(
        temperature=[1.0] * 4,
        top_k=[0, 2, 0, 3],
        top_p=[0.25, 1.0, 0.25, 0.9],
        seed=[1, 2, 3, 4],
        start=[0] * 4,
    )
    logits = rows[:, None].expand(-1, 64, -1)
    want = outcome("reference", logits, how)[0]
    assert [set(row) for row in want.tolist()] == [{0, 1}, {0, 1, 2, 3}, {0}, {1}]
    assert torch.equal(outcome(triton, logits[:, :4], how)[0], want[:, :4])


def test_a_greedy_row_beside_drawing_ones_is_greedy(triton):
    logits = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(6))
    mixed = settings(
        temperature=[0.0, 1.0], top_k=[1, 0], top_p=[0.1, 1.0], seed=[1, 1], start=[0, 0]
    )
    greedy = outcome(triton, logits, None)[0]
    assert torch.equal(outcome(triton, logits, mixed)[0][0], greedy[0])
    assert not torch.equal(outcome(triton, logits, mixed)[0][1], greedy[1])
