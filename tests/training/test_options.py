"""Options refuse what they do not know, and schedules give the rates that they name."""

from __future__ import annotations

import pytest
import torch

from fastedit.training.noise.schedule import Schedule
from fastedit.training.options import EditOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"t2t": "noise"},
        {"mask_weight": "2/t"},
        {"denominator": "tokens"},
        {"draft_mode": "beam"},
        {"random_scope": "all"},
        {"draft_adapter": "ema"},
        {"share_clean": "yes"},
        {"r_edit": 1.5},
        {"draft_share": -0.1},
        {"keep_mask": float("nan")},
        {"n_drafts": 0},
        {"turns": 0},
        {"w_max": 0.5},
        {"lambda_edit": -1.0},
        {"lambda_edit": float("inf")},
        {"lambda_keep": float("nan")},
        {"w_max": float("inf")},
        {"turn_threshold": float("nan")},
        {"turn_threshold": float("inf")},
        {"turn_editing_threshold": -3.0},
        {"cap_beta": -2.0},
        {"draft_temperature": 0.0},
        {"noise": "uniform_seq(0.8,0.3)"},
        {"noise": "uniform_seq(0.3)"},
        {"noise": "fixed(0.2,0.4)"},
        {"noise": "fixed(1.5)"},
        {"noise": "cosine(0,1)"},
        {"noise": "0.5"},
        {"n_drafts": 1.5},
        {"n_drafts": True},
        {"turns": "many"},
        {"turn_steps": 0},
        {"wildcard_rounds": -1},
        {"r_edit": None},
        {"complementary": 1},
        {"draft_forbid": 5},
        {"draft_forbid": ["x"]},
        {"noise": ["fixed(0.5)"]},
    ],
)
def test_wrong_values_are_named(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        EditOptions(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": "edits"}, "labels must be one of plain, lcs, levenshtein"),
        ({"labels": "lcs", "t2t": "random"}, "take t2t=self, not t2t=random"),
        ({"labels": "lcs", "t2t": "none"}, "take t2t=self, not t2t=none"),
        ({"labels": "levenshtein", "t2t": "random"}, "take t2t=self or none, not t2t=random"),
        ({"labels": "lcs", "turns": 1}, "turns=1 has no labels of edits"),
        ({"labels": "lcs", "loss_region": "formerly_masked"}, "take loss_region=response"),
        ({"delete_token_id": 7}, "delete_token_id says nothing with labels=plain"),
        ({"labels": "levenshtein", "insert_token_id": 7}, "leave it out, or take labels=lcs"),
        ({"labels": "levenshtein", "wildcard_rounds": 1}, "wildcard_rounds says nothing"),
        ({"labels": "levenshtein", "turns": 2}, "turns says nothing with labels=levenshtein"),
        ({"labels": "levenshtein", "n_drafts": 2}, "that do are refinement.NAME and delete_token"),
    ],
)
def test_labels_of_edits_refuse_what_does_not_go_with_them(wrong, message):
    with pytest.raises(ValueError, match=message):
        EditOptions(**wrong)


@pytest.mark.parametrize(
    ("labels", "attention", "other"),
    [("lcs", "full", "levenshtein"), ("levenshtein", "block_causal", "lcs")],
)
def test_labels_of_edits_are_for_one_attention(labels, attention, other):
    options = EditOptions(labels=labels)
    with pytest.raises(ValueError, match=f"labels={labels} are for .* take labels={other}"):
        options.for_attention(attention)
    fitting = "full" if attention == "block_causal" else "block_causal"
    assert options.for_attention(fitting).labels == labels


def test_edits_take_rounds():
    assert (EditOptions().turns, EditOptions().grad_rounds) == (1, "last")
    assert EditOptions(labels="lcs").rounds == 3
    assert EditOptions(labels="lcs", turns=5, grad_rounds="last").rounds == 1


def test_nothing_keeps_right_tokens_is_a_warning():
    with pytest.warns(UserWarning, match="lambda_keep=0"):
        EditOptions(lambda_keep=0.0)


def test_schedules_give_their_rates():
    draw = torch.tensor([0.0, 0.25, 0.5, 0.75])
    for text, rates in {
        "uniform_seq(0.3,0.8)": [0.3, 0.425, 0.55, 0.675],
        "uniform(0.001, 1)": [0.001, 0.25075, 0.5005, 0.75025],
        "uniform_block(0,1)": [0.0, 0.25, 0.5, 0.75],
        "bandwidth(0.4,0.6)": [0.4, 0.4, 0.5, 0.6],
        "fixed(0.75)": [0.75] * 4,
    }.items():
        schedule = Schedule.parse(text)
        torch.testing.assert_close(schedule.rates(draw), torch.tensor(rates))
        assert schedule.per_block == text.startswith("uniform_block")
