"""Steps, rows and rates that follow from the data; what is cut off; trackers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("peft")
pytest.importorskip("accelerate")

from fastedit.training.data.documents import Document, Documents, Form
from fastedit.training.runs.amounts import learning_rate_of, steps_of, together
from fastedit.training.runs.data import RunData
from fastedit.training.runs.settings import RunOptions
from fastedit.training.runs.trackers import check_trackers


def options(**changes):
    return RunOptions.from_mapping({"checkpoint": "tiny", "data": "x"} | changes)


@pytest.mark.parametrize(
    ("rows", "batch_size", "steps", "passes"),
    [
        (200, 8, 500, 20),  # enough by reading it as often as allowed
        (20, 8, 60, 20),  # never enough
        (1000, 8, 500, 4),
        (1001, 8, 504, 4),
        (4000, 8, 500, 1),
        (80_000, 8, 10_000, 1),  # once
        (1, 8, 20, 20),
    ],
)
def test_small_data_is_read_more_often(rows, batch_size, steps, passes):
    assert steps_of(rows, batch_size) == (steps, passes)


@pytest.mark.parametrize(
    ("changes", "packed", "shared"),
    [
        ({}, 13, False),  # 200 short documents
        ({}, 200, True),
        ({"steps": 300}, 13, True),
        ({"packing": True}, 13, True),
        ({"packing": False}, 10_000, False),
    ],
)
def test_documents_share_rows_where_that_leaves_steps(changes, packed, shared):
    assert together(options(**changes), packed) is shared


def test_the_rate_falls_with_steps_and_width():
    rates = [learning_rate_of(options(), steps, 2048) for steps in (20, 500, 2000, 10**6)]
    assert rates == [1e-3, 5e-4, 2.5e-4, 1e-4]
    widths = [learning_rate_of(options(), 500, width) for width in (16, 160, 4096)]
    assert widths == [1e-2, 3.7e-3, 2.9e-4]
    assert learning_rate_of(options(lora_rank=0), 500, 2048) == 5e-5
    assert learning_rate_of(options(learning_rate=2.0), 500, 2048) == 2.0
    assert learning_rate_of(options(head="correction"), 500, 160) == 3e-4


@pytest.mark.parametrize(
    ("longest", "words"),
    [
        (64, "--max-length 96 keeps them whole"),  # and its EOS
        (200, "--max-length 224 keeps them whole"),
        (256, "the longest needs 288 tokens, and the model has 256 positions: shorten or"),
    ],
)
def test_what_is_cut_off_is_counted_with_what_helps(longest, words):
    form = Form(32, 64, 0, 1)
    document = Document(0, np.zeros(64, np.int32), np.ones(64, bool))

    def said(cut):
        documents = Documents([document] * 5, cut, longest)
        return RunData(documents, [], [], False, None, form).cut_off(256)

    assert said(0) is None
    assert said(3).startswith("3 of 5 examples are cut off at max_length=64") and words in said(3)


def test_trackers_are_known_and_installed(monkeypatch):
    check_trackers(["none"])
    with pytest.raises(ValueError, match=r"report_to='tensorbord' must be one of .*tensorboard"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr(
        "fastedit.training.runs.trackers.get_available_reporting_integrations", list
    )
    with pytest.raises(ImportError, match="report_to=wandb needs its package: pip install wandb"):
        check_trackers(["wandb"])
