"""What follows from a trace: the canvas, counts, oscillations and the history of a position."""

import pytest

from fastedit.traces import Trace


def test_replay_gives_the_canvas_after_every_forward(trace):
    canvases = [dict(canvas) for _, _, canvas in trace.replay()]
    assert canvases[0] == {-1: 4, 0: 1, 1: 9, 2: 3}
    assert canvases[1] == {-1: 4, 0: 2, 1: 9, 2: 9}
    assert canvases[-1] == trace.final() == {-1: 4, 0: 2, 1: 5, 2: 3}
    assert trace.sequence == [2, 5, 3]
    assert trace.counts() == {
        "fill": 4, "edit": 3, "remask": 1, "insert": 0, "delete": 0, "commit": 3
    }  # fmt: skip


def test_oscillations_are_tokens_that_come_back(trace):
    """1, 2, 1, 2 comes back twice, and 3, mask, 3 once; the mask that comes back is no token."""
    assert trace.oscillations() == 3


def test_what_moves_takes_its_past_along(moved):
    assert moved.final() == {0: 4, 1: 2}
    assert moved.oscillations() == 0
    assert [event.kind for event in moved.history(0)] == ["insert", "edit", "commit"]
    assert [event.kind for event in moved.history(1)] == ["commit"]


def test_history_says_why(trace):
    history = trace.history(0)
    assert [event.kind for event in history] == ["fill", "edit", "edit", "edit", "commit"]
    assert history.changes[0].why == "its confidence (0.9) was above threshold=0.5"
    lines = str(history).splitlines()
    assert lines[0] == f'Position 0 holds "two", under policy {trace.policy}.'
    assert lines[2] == (
        '  forward 2, block 0: changed from "one" (p 0.1) to "two" (p 0.8): '
        "its confidence (0.8) was above editing_threshold=0.2"
    )
    assert "at least 1" in trace.history(1).changes[0].why  # 0.4 is not above the threshold
    told = history.as_dict()
    assert told["token"] == 2 and told["changes"][1]["p_old"] == 0.1
    assert len(told["changes"]) == len(history)


def test_a_position_that_is_not_there(trace):
    with pytest.raises(IndexError, match=r"position 3 was not decoded: the trace has -1 to 2"):
        trace.history(3)
    with pytest.raises(IndexError, match="the trace has none"):
        Trace(trace.header, [], {}, {}).history(0)
    assert "there from the beginning" in str(trace.history(-1))


def test_of_a_model(edited):
    drafted, fresh = edited
    assert "there from the beginning" in str(drafted.history(0)), "a token of the draft, kept"
    history = drafted.history(3)
    assert [event.kind for event in history] == ["edit", "commit"]
    assert "was above editing_threshold=0.5" in str(history)
    assert drafted.text(history.changes[0].event.new) == " = "
    assert [event.kind for event in fresh.history(3)] == ["fill", "commit"]
    model = drafted.header["model"]
    assert model == {"class": "LLaDA2MoeModelLM", "name": "tiny", "revision": None}
    assert repr(drafted).startswith("Trace(joint_threshold: ")
