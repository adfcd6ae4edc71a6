"""The study of edits: what it counts of an edit, and rules that leave operations out."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from edits_arms import register_rules
from edits_effects import Watched, distance, no_counts

from fastedit import policies
from fastedit.results import Event

EOS, MASK, DELETE, INSERT, PAD = 0, 1, 2, 3, 4
A, B, C = 5, 6, 7


@pytest.fixture(autouse=True)
def rules():
    known = dict(policies.POLICIES)
    register_rules()
    yield
    policies.POLICIES.clear()
    policies.POLICIES.update(known)


@pytest.mark.parametrize(
    "text,far",
    [
        ([A, B, C, EOS, A], 0),
        ([A, C, EOS], 1),
        ([A, B, B, C, EOS], 1),
        ([A, MASK, C, EOS], 0),
        ([MASK, EOS], 2),
        ([A, B], 0),  # not finished
        ([A, C], 1),
        ([], 0),
    ],
)
def test_distances_to_the_right_answer(text, far):
    assert distance(text, [A, B, C], MASK, EOS) == far


def test_edits_are_judged_one_by_one_and_answers_as_a_whole():
    counts = no_counts()
    watched = Watched([A, B, C], MASK, EOS, counts)
    watched.draft(Event("draft", ids=[A, C, C, EOS]))
    assert watched.first is False and not watched.turns
    watched.draft(Event("draft", ids=[A, B, C, EOS], moved=[0, 1, 2, 3]))
    assert watched.turns == [("replace", True)]
    # Two at once: B goes, and a mask is put before C, which stands for it.
    after = Event("draft", ids=[A, MASK, C, EOS], moved=[0, -1, 2, 3], inserted=[2], deleted=[1])
    watched.draft(after)
    watched.draft(Event("draft", ids=[A, A, C, EOS]))
    assert watched.turns[1:] == [("several", False)]
    watched.draft(Event("draft", ids=[A, A, C, EOS]))  # nothing happens
    assert len(watched.turns) == 2 and watched.right is False and watched.first is False
    some = {"all": 1, "repairs": 0, "breaks": 1, "right_to_wrong": 1, "wrong_to_right": 0}
    assert counts["delete"] == counts["insert"] == some
    assert counts["replace"] == some | {
        "repairs": 1,
        "breaks": 0,
        "right_to_wrong": 0,
        "wrong_to_right": 1,
    }


def test_blocks_are_judged_behind_those_that_are_final():
    counts = no_counts()
    watched = Watched([A, B, C], MASK, EOS, counts)
    watched.draft(Event("draft", ids=[A, B], block=0))
    watched.commit([A, B])
    watched.draft(Event("draft", ids=[B, EOS], block=1))
    watched.draft(Event("draft", ids=[C, EOS], block=1))
    assert counts["replace"]["repairs"] == counts["replace"]["wrong_to_right"] == 1
    assert watched.turns == [("replace", True)]


@pytest.mark.parametrize(
    "rule,after",
    [
        ("joint_threshold_indel", [A, C, MASK, B]),
        ("indel_delete", [A, C, B, MASK]),
        ("indel_replace", [A, A, C, B]),
    ],
)
def test_indel_without_some_operations(rule, after):
    """Tokens A A A B; the model wants A, DELETE, C, INSERT."""
    text = f"{rule}:editing_threshold=0,delete_token_id={DELETE},insert_token_id={INSERT}"
    state = policies.open(policies.parse(text), torch.tensor([[A, A, A, B]]), mask_token_id=MASK)
    logits = torch.zeros(1, 4, 9)
    logits[0, range(4), [A, DELETE, C, INSERT]] = 9.0
    policies.step_(state, logits)
    assert state.ids.tolist() == [after]


@pytest.mark.parametrize("rule", ["indel_delete", "indel_replace"])
def test_a_mask_takes_the_best_token_that_is_allowed(rule):
    text = f"{rule}:threshold=0,delete_token_id={DELETE},insert_token_id={INSERT}"
    state = policies.open(policies.parse(text), torch.tensor([[MASK, MASK]]), mask_token_id=MASK)
    logits = torch.zeros(1, 2, 9)
    logits[0, :, INSERT], logits[0, 0, B], logits[0, 1, C] = 9.0, 8.0, 8.0
    policies.step_(state, logits)
    assert state.ids.tolist() == [[B, C]]


@pytest.mark.parametrize(
    "rule,after",
    [
        ("me_dlm", [A, B, C, EOS]),
        ("me_dlm_delete", [A, C, EOS]),
        ("me_dlm_replace", [A, A, C, EOS]),
    ],
)
def test_me_dlm_without_some_operations(rule, after):
    """A prompt A, then A B EOS: the model wants to delete A, C for B, and B behind the prompt."""
    ids = f"delete_token_id={DELETE},pad_token_id={PAD},eos_token_id={EOS}"
    policy = policies.parse(f"{rule}:edit_steps=1,{ids}")
    tokens = torch.tensor([[A, A, B, EOS]])
    state = policies.open(
        policy, tokens, tokens.new_tensor([[0, 1, 1, 1]]).bool(), mask_token_id=MASK,
        lengths=torch.tensor([4]),
    )  # fmt: skip
    one, two = torch.zeros(2, 1, 4, 9)
    one[0, range(4), [A, DELETE, C, EOS]] = 9.0
    two[0, range(4), [B, B, EOS, EOS]] = 9.0
    policies.step_(state, one, next_logits=two)
    assert state.ids[0, : state.lengths[0]].tolist() == after
