"""Every rule of the decision step by hand."""

import math

import pytest
import torch
from blocks import MASK, A, B, C, row, state_of, step, values

from fastedit import ops


def test_a_view_of_a_larger_state_and_canvas_is_written_in_place(backend):
    ids, state = torch.full((3, 2), MASK), ops.StepState.new(3)
    with ops.use_backend(backend):
        ops.joint_threshold_step_(
            ids[1:2],
            torch.tensor([[row(A, 0.9), row(B, 0.9)]]),
            torch.ones(1, 2, dtype=torch.bool),
            state[1:2],
            mask_token_id=MASK,
            threshold=0.7,
            editing_threshold=None,
            max_post_steps=1,
        )
    assert ids.tolist() == [[MASK, MASK], [A, B], [MASK, MASK]]
    assert state.m2t_commits.tolist() == [0, 2, 0]


def test_confident_masks_commit_and_confident_rivals_replace_in_the_same_step(backend):
    ids, state = step(
        backend,
        [[MASK, MASK, A, A, B]],
        [[row(B, 0.8), row(C, 0.6), row(C, 0.6), row(C, 0.45), row(B, 0.9)]],
    )
    assert ids == [[B, MASK, C, A, B]]
    assert values(state) == [(0, 1, 1, 1, False, True, False)]


@pytest.mark.parametrize(
    ("count", "want"),
    [
        (1, [MASK, B, MASK, MASK]),
        (2, [MASK, B, C, MASK]),
        (3, [A, B, C, MASK]),  # ties: position 0 before position 3
        (9, [A, B, C, A]),
    ],
)
def test_too_few_confident_masks_force_the_most_confident(backend, count, want):
    logits = [[row(A, 0.4), row(B, 0.6), row(C, 0.5), row(A, 0.4)]]
    ids, state = step(backend, [[MASK] * 4], logits, num_to_transfer=count)
    assert ids == [want]
    assert state.m2t_commits.tolist() == [4 - want.count(MASK)]


@pytest.mark.parametrize(("count", "want"), [(2, [A, B, MASK]), (3, [A, B, C])])
def test_exactly_enough_confident_masks_force_nothing(backend, count, want):
    logits = [[row(A, 0.9), row(B, 0.8), row(C, 0.6)]]
    assert step(backend, [[MASK] * 3], logits, num_to_transfer=count)[0] == [want]


@pytest.mark.parametrize(("length", "n"), [(32, 1), (32, 7), (64, 5)])
def test_forced_ties_go_to_the_lowest_positions(backend, length, n):
    logits = torch.zeros(1, length, 50)
    logits[..., 8] = 1.0
    ids, _ = step(backend, [[49] * length], logits, mask_token_id=49, num_to_transfer=n)
    assert ids == [[8] * n + [49] * (length - n)]


@pytest.mark.parametrize(
    ("editing_threshold", "want"),
    [
        (None, [A, A, A]),
        (math.inf, [A, A, A]),
        (1.0, [A, A, A]),  # a probability never exceeds 1
        (0.5, [B, B, A]),
        (0.0, [B, B, B]),
    ],
)
def test_editing_threshold_off_zero_one(backend, editing_threshold, want):
    sure = [-math.inf, 0.0, -math.inf, -math.inf]
    logits = [[sure, row(B, 0.6), row(B, 0.4)]]
    ids, state = step(backend, [[A, A, A]], logits, editing_threshold=editing_threshold)
    assert ids == [want]
    assert values(state) == [(1, 1, 0, want.count(B), want[0] == A, want[0] == B, False)]


def test_threshold_zero_commits_all_and_one_only_the_forced(backend):
    logits = [[row(A, 0.3), [0.0, -math.inf, -math.inf, -math.inf], row(B, 0.9)]]
    assert step(backend, [[MASK] * 3], logits, threshold=0.0)[0] == [[A, A, B]]
    assert step(backend, [[MASK] * 3], logits, threshold=1.0)[0] == [[MASK, A, MASK]]


def test_every_block_has_its_own_settings(backend):
    logits = torch.tensor([[row(A, 0.8), row(B, 0.6), row(C, 0.6)]] * 4)
    ids, state = step(
        backend,
        [[MASK, MASK, A]] * 4,
        logits,
        threshold=torch.tensor([0.7, 0.5, math.inf, 0.9]),
        editing_threshold=torch.tensor([0.5, math.inf, 0.7, 0.0]),
        max_post_steps=torch.tensor([0, 0, 1, 1], dtype=torch.int32),
        num_to_transfer=torch.tensor([1, 1, 2, 1], dtype=torch.int32),
    )
    assert ids == [[A, MASK, C], [A, B, A], [A, B, A], [A, MASK, C]]
    assert state.done.tolist() == [False, True, False, False]


@pytest.mark.parametrize("flags", [(True, True, False), (True, False, True)])
def test_done_blocks_are_left_as_they_are(backend, flags):
    old = state_of((3, 5, 7, 9, *flags))
    ids, new = step(backend, [[MASK, A]], [[row(B, 0.9), [math.nan] * 4]], state=old)
    assert ids == [[MASK, A]]
    assert values(new) == values(old)


@pytest.mark.parametrize("max_post_steps", [0, 2])
def test_a_spent_block_becomes_done_and_stays_untouched(backend, max_post_steps):
    old = state_of((max_post_steps, 0, 0, 0, False, True, False))
    options = {"max_post_steps": max_post_steps, "editing_threshold": 0.0}
    ids, new = step(backend, [[A, A]], [[row(B, 0.9)] * 2], state=old, **options)
    assert ids == [[A, A]]
    assert values(new) == [(max_post_steps, 0, 0, 0, True, True, False)]


@pytest.mark.parametrize("max_post_steps", [0, 1, 3])
def test_restless_blocks_end_with_the_last_edit_applied(backend, max_post_steps):
    ids, state = [[MASK, A]], None
    seen = []
    for likes in (B, A, B, A, B, A):
        options = {"max_post_steps": max_post_steps, "editing_threshold": 0.0}
        ids, state = step(backend, ids, [[row(likes, 0.9)] * 2], state=state, **options)
        seen.append(ids[0])
    assert values(state)[0][:2] == (max_post_steps, max_post_steps + 1)
    assert state.done.tolist() == [True] and state.dirty.tolist() == [True]
    assert seen[max_post_steps:] == [seen[max_post_steps]] * (6 - max_post_steps)
    assert len({tuple(s) for s in seen[: max_post_steps + 1]}) == min(max_post_steps + 1, 2)


def test_an_unchanged_mask_free_block_is_done_and_clean(backend):
    ids, state = step(backend, [[A, B]], [[row(A, 0.9), row(C, 0.4)]])
    assert ids == [[A, B]]
    assert values(state) == [(1, 1, 0, 0, True, False, False)]


def test_protected_positions_never_change_and_never_count(backend):
    logits = [[row(B, 0.99)] * 4]
    editable = [[False, False, True, True]]
    ids, state = step(backend, [[MASK, A, A, B]], logits, editable)
    assert ids == [[MASK, A, B, B]]  # the literal mask stays, and is not a mask
    assert values(state) == [(1, 1, 0, 1, False, True, False)]
    ids, state = step(backend, [[MASK, A, B, B]], logits, editable)
    assert values(state) == [(1, 1, 0, 0, True, False, False)]


def test_the_mask_token_is_never_chosen_but_keeps_its_share(backend):
    logits = [[row(MASK, 0.9), row(MASK, 0.9), row(MASK, 0.9)]]
    ids, state = step(backend, [[MASK, MASK, B]], logits, threshold=0.03, editing_threshold=0.034)
    assert ids == [[A, A, B]]  # A has 0.1 / 3 = 0.0333
    assert values(state) == [(0, 1, 2, 0, False, True, False)]


def test_forbidden_ids_are_never_chosen(backend):
    options = {"forbid": [A, MASK], "threshold": 0.0, "editing_threshold": 0.0}
    ids, state = step(backend, [[MASK, B]], [[row(A, 0.9)] * 2], **options)
    assert ids == [[B, B]]
    assert state.t2t_edits.tolist() == [0]


def test_strict_reference_lets_the_mask_be_chosen(backend):
    logits = [[row(MASK, 0.9)] * 3]
    ids, state = step(backend, [[MASK, MASK, B]], logits, strict_reference=True)
    assert ids == [[MASK, MASK, MASK]]
    assert values(state) == [(0, 1, 0, 1, False, True, False)]
    ids, state = step(backend, ids, logits, strict_reference=True, state=state)
    assert values(state) == [(0, 2, 0, 1, False, False, False)]  # stalled: not done, not changed
    ids, state = step(backend, [[B, B]], [[row(MASK, 0.9)] * 2], strict_reference=True)
    assert (ids, values(state)) == ([[MASK, MASK]], [(1, 1, 0, 2, False, True, False)])


def test_strict_reference_still_obeys_forbid(backend):
    options = {"strict_reference": True, "forbid": [MASK]}
    assert step(backend, [[MASK]], [[row(MASK, 0.9)]], **options)[0] == [[A]]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_row_without_a_candidate_is_never_written_and_is_bad(backend, value):
    empty = [value] * 4
    ids, state = step(backend, [[MASK, A, MASK]], [[empty, empty, row(B, 0.4)]], threshold=0.0)
    assert ids == [[MASK, A, B]]
    assert values(state) == [(0, 1, 1, 0, False, True, True)]
    ids, state = step(backend, [[MASK, A, B]], [[empty] * 3], state=state, threshold=0.0)
    assert ids == [[MASK, A, B]] and not state.done.item()


def test_only_the_mask_is_finite_so_there_is_no_candidate(backend):
    only_mask = [-math.inf] * 3 + [0.0]
    ids, state = step(backend, [[MASK, A]], [[only_mask] * 2])
    assert (ids, state.bad.tolist()) == ([[MASK, A]], [True])


@pytest.mark.parametrize(
    ("ids", "editable", "editing_threshold", "bad"),
    [
        ([MASK, A], [True, True], 0.5, True),
        ([MASK, A], [False, True], 0.5, False),  # the NaN row is prompt
        ([B, A], [True, True], 0.5, True),
        ([B, A], [True, True], None, False),  # nobody looks at it
        ([B, A], [True, True], 1.0, True),
    ],
)
def test_bad_looks_at_the_rows_that_could_change(backend, ids, editable, editing_threshold, bad):
    logits = [[[math.nan, 0.0, 5.0, 0.0], row(A, 0.9)]]
    _, state = step(backend, [ids], logits, [editable], editing_threshold=editing_threshold)
    assert state.bad.tolist() == [bad]
    _, state = step(backend, [[A, A]], [[row(A, 0.9)] * 2], state=state)
    assert state.bad.tolist() == [bad]  # accumulates


def test_no_blocks_and_no_positions_are_fine(backend):
    for shape in ((0, 3), (2, 0)):
        ids, _ = step(backend, torch.zeros(shape, dtype=torch.int64), torch.zeros(*shape, 4))
        assert torch.tensor(ids).numel() == 0


def test_a_new_state_is_all_zero_and_typed():
    state = ops.StepState.new(3)
    assert values(state) == [(0, 0, 0, 0, False, False, False)] * 3
    assert [f.dtype for f in state.fields()] == [torch.int32] * 4 + [torch.bool] * 3
