"""Ctrl-C while decoding: what is finished is returned, and signals are the program's own."""

import signal
import threading

import pytest
import torch
from cases import MASK, SCRIPTED, V, scripted
from fakes import ScriptedModel, hashed

from fastedit import Decoder
from fastedit.request.request import Request

OPTIONS = SCRIPTED | {"max_new_tokens": 10, "max_batch": 2, "seed": 3}
PROMPTS = [torch.tensor([i, 1, 2]) for i in range(5)]


class Interrupted(ScriptedModel):
    """Calls `event` once, in call `at`."""

    def __init__(self, at, event):
        super().__init__(V, hashed(V, MASK, 1))
        self.at, self.event = at, event

    def __call__(self, **inputs):
        if len(self.calls) + 1 == self.at:
            self.event()
        return super().__call__(**inputs)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def raising():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole():
    out = Decoder(scripted()).generate(PROMPTS, **OPTIONS)
    assert not out.interrupted
    return out


@pytest.mark.parametrize("event", [ctrl_c, raising])
@pytest.mark.parametrize("at", [1, 9, 20, 30])
def test_results_so_far_are_returned_in_order(whole, at, event):
    model = Interrupted(at, event)
    out = Decoder(model).generate(PROMPTS, **OPTIONS)
    assert out.interrupted and out.errors == [None] * 5
    assert len(model.calls) == at - 1
    reasons = [stats.finish_reason for stats in out.stats]
    assert set(reasons) <= {"length", "interrupted"}
    for ids, stats, full, complete in zip(
        out.sequences, out.stats, whole.sequences, whole.stats, strict=True
    ):
        if stats.finish_reason == "length":
            assert ids.equal(full) and stats == complete
        else:
            assert len(ids) in (0, 1, 5, 9) and ids.equal(full[: len(ids)])
            assert stats.tokens == len(ids) and stats.seed == 3
    if at >= 20:
        assert "length" in reasons and any(
            0 < stats.tokens < 10 for stats in out.stats if stats.finish_reason == "interrupted"
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("event", [ctrl_c, raising])
def test_an_iteration_over_results_ends_behind_those_that_are_there(event):
    model = scripted()
    ends = [(len(model.calls), r) for r in Decoder(model).as_completed(PROMPTS, **OPTIONS)]
    complete = {r.index: r.sequence for _, r in ends}
    for at, last in ends:  # in the very step of a result
        model, results = Interrupted(at, event), []
        with pytest.raises(KeyboardInterrupt):
            results.extend(Decoder(model).as_completed(PROMPTS, **OPTIONS))
        assert len(model.calls) == at - 1
        there = [r.index for step, r in ends if step < at]
        assert [r.index for r in results] == there and last.index not in there
        for ours in results:
            assert ours.sequence.equal(complete[ours.index])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_between_two_results_ctrl_c_is_the_callers_own():
    """Who has a result, or has left the iteration and still has it, is not to press it twice."""
    results = Decoder(scripted()).as_completed(PROMPTS, **OPTIONS)
    for _ in results:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        break
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert len(list(results)) == len(PROMPTS) - 1


def test_within_a_commit_the_block_does_not_count(whole, monkeypatch):
    cut = Request._cut
    calls = []

    def interrupted(request, before):
        calls.append(request)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return cut(request, before)

    monkeypatch.setattr(Request, "_cut", interrupted)
    out = Decoder(scripted()).generate(PROMPTS, **OPTIONS)
    assert out.interrupted
    assert [len(ids) for ids in out.sequences] == [stats.tokens for stats in out.stats]


def test_what_ended_in_the_step_under_way_is_not_lost(monkeypatch):
    """The interrupt comes when one request of a step has been followed and another has not."""
    follow, ended = Request.follow, []

    def interrupted(request, record, row):
        if ended:
            raise KeyboardInterrupt
        opened = follow(request, record, row)
        if request.finished:
            ended.append(request.index)
        return opened

    monkeypatch.setattr(Request, "follow", interrupted)
    results = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(Decoder(scripted()).as_completed(PROMPTS, **OPTIONS))
    assert [result.index for result in results] == ended and len(ended) == 1


def test_no_handler_is_touched_while_decoding():
    seen = []
    model = Interrupted(5, lambda: seen.append(signal.getsignal(signal.SIGINT)))
    Decoder(model).generate(PROMPTS, **OPTIONS)
    assert seen == [signal.default_int_handler]


@pytest.mark.parametrize("event", [ctrl_c, raising])
def test_a_single_prompt_and_a_stream_raise(event):
    with pytest.raises(KeyboardInterrupt):
        Decoder(Interrupted(2, event)).generate(PROMPTS[0], **OPTIONS)
    options = {name: value for name, value in OPTIONS.items() if name != "max_batch"}
    with pytest.raises(KeyboardInterrupt):
        list(Decoder(Interrupted(2, event)).stream(PROMPTS[0], **options))


def test_a_handler_of_the_program_is_left_alone(whole):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        out = Decoder(Interrupted(5, ctrl_c)).generate(PROMPTS, **OPTIONS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1] and not out.interrupted
    assert [ids.tolist() for ids in out.sequences] == [ids.tolist() for ids in whole.sequences]


def test_threads_beside_the_main_one_decode_without_signals(whole):
    outs = []
    model = scripted()
    thread = threading.Thread(
        target=lambda: outs.append(Decoder(model).generate(PROMPTS, **OPTIONS))
    )
    thread.start()
    thread.join()
    assert [ids.tolist() for ids in outs[0].sequences] == [ids.tolist() for ids in whole.sequences]
