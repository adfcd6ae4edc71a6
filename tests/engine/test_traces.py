"""A traced request gives the same tokens, and its events, replayed, give them again."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from cases import ENDS, GOLDEN, PROMPTS
from every_policy import RULES, decoder_of, drawing
from tape import Tape

from fastedit import Decoder, ops
from fastedit.engine import engine, step
from fastedit.engine import graphs as graph
from fastedit.traces import Opened, Trace

TOKENS = 12
COUNTS = {
    "fill": "m2t_commits",
    "edit": "t2t_edits",
    "remask": "remasks",
    "insert": "inserts",
    "delete": "deletes",
}


@pytest.fixture(scope="module")
def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(7, 90, (length,), generator=generator) for length in (9, 1, 16)]


def told(out) -> list[tuple]:
    """Of each request, tokens and stats; how its prompt was prefilled depends on its company."""
    beside = dict.fromkeys(("oscillations", "forwards_after_last_mask", "share_after_last_mask"))
    stats = (stats.as_dict() | beside | {"prefill_forwards": 0} for stats in out.stats)
    return [(ids.tolist(), stats) for ids, stats in zip(out.sequences, stats, strict=True)]


def changes(traces: list[Trace]) -> list[list[tuple]]:
    """Without probabilities, whose last digits follow the shape of the forward."""
    return [[dataclasses.astuple(event)[:6] for event in trace.events] for trace in traces]


def check(trace: Trace, sequence: torch.Tensor, stats) -> None:
    canvas, ids = trace.final(), sequence.tolist()
    assert [canvas[i] for i in range(len(ids))] == ids == trace.sequence
    counts = trace.counts()
    assert {kind: counts[kind] for kind in COUNTS} == {
        kind: getattr(stats, name) for kind, name in COUNTS.items()
    }
    numbers = [forward.forward for forward in trace.forwards]
    assert numbers == sorted(numbers) and numbers[-1] <= stats.forwards
    assert stats.oscillations == trace.oscillations()


def after_last_mask(trace: Trace, forwards: int) -> int:
    """Of a request whose blocks are final one by one."""
    blocks: list[list[int]] = []  # of each: its first forward, and that of its last fill
    for turn in trace.turns():
        if isinstance(turn, Opened):
            blocks.append([turn.forward, turn.forward - 1])
            continue
        forward, events = turn
        if any(event.kind == "fill" for event in events):
            blocks[-1][1] = forward.forward
    ends = [first - 1 for first, _ in blocks[1:]] + [forwards]
    return sum(end - fill for (_, fill), end in zip(blocks, ends, strict=True))


@pytest.mark.filterwarnings("ignore:temperature", "ignore:policy")
@pytest.mark.parametrize("name", [name for name in RULES if name != "correction"])
def test_every_policy(golden_model, tokenizer, prompts, name):
    """Two at a time, so that a slot changes hands; one of them draws."""
    decoder = decoder_of(golden_model, tokenizer, name, max_new_tokens=TOKENS)
    config = [decoder.config.replace(**drawing(name) if i == 1 else {}) for i in range(3)]
    plain = decoder.generate(prompts, config=config, max_batch=2)
    traced = decoder.generate(prompts, config=config, max_batch=2, trace=True)
    assert told(traced) == told(plain) and plain.traces is None
    for trace, sequence, stats in zip(traced.traces, traced.sequences, traced.stats, strict=True):
        check(trace, sequence, stats)
        assert trace.events[0].policy == name.partition(",")[0]


def test_probabilities_are_what_the_rule_compared(golden_model, tokenizer, prompts):
    decoder = decoder_of(golden_model, tokenizer, "joint_threshold", max_new_tokens=TOKENS)
    (trace,) = decoder.generate(prompts[0], trace=True).traces
    for event in trace.events:
        if event.kind in ("fill", "edit"):
            assert event.p_new == event.confidence
        if event.kind == "edit":
            assert event.confidence > 0.2 and event.p_old < event.p_new
    by_forward = {}
    for event in trace.events:
        by_forward.setdefault(event.forward, []).append(event)
    sure = [e for events in by_forward.values() for e in events if e.kind == "fill"]
    alone = [f for f, events in by_forward.items() if sum(e.kind == "fill" for e in events) == 1]
    assert all(event.confidence > 0.3 for event in sure if event.forward not in alone)


@pytest.mark.parametrize("name", ["joint_threshold", "wino", "joint_threshold_indel"])
def test_late_and_from_graphs(golden_model, tokenizer, prompts, monkeypatch, name):
    """As on a GPU: the host follows one step late, and captured steps record as well."""
    want = (
        decoder_of(golden_model, tokenizer, name, max_new_tokens=TOKENS)
        .generate(prompts, trace=True)
        .traces
    )
    monkeypatch.setitem(engine.DELAY, "cpu", 1)
    late = (
        decoder_of(golden_model, tokenizer, name, max_new_tokens=TOKENS)
        .generate(prompts, trace=True)
        .traces
    )
    assert changes(late) == changes(want)


def test_from_graphs(countless_experts, monkeypatch):
    monkeypatch.setitem(engine.DELAY, "cpu", 1)
    monkeypatch.setitem(graph.CAPTURE, "cpu", Tape)
    monkeypatch.setattr(Tape, "made", [], raising=False)
    decoder, options = (
        Decoder(countless_experts),
        GOLDEN | ENDS[0] | {"trace": True, "max_new_tokens": 20},
    )
    with ops.use_backend("reference"):
        taped = decoder.generate(PROMPTS[:4], **options)
        assert sum(tape.replays for tape in Tape.made) > 5
        plain = decoder.generate(PROMPTS[:4], cuda_graphs=False, **options)
    assert changes(taped.traces) == changes(plain.traces)
    for trace, sequence, stats in zip(taped.traces, taped.sequences, taped.stats, strict=True):
        check(trace, sequence, stats)


@pytest.mark.parametrize("options", [{"cache": "none"}, {"lookahead": True}, {"threshold": 0.9}])
def test_plans_and_caches(golden_model, prompts, options):
    decoder = Decoder(golden_model)
    options = GOLDEN | options | {"max_new_tokens": 20}
    plain = decoder.generate(prompts, **options)
    traced = decoder.generate(prompts, trace=True, **options)
    assert told(traced) == told(plain)
    for trace, sequence, stats in zip(traced.traces, traced.sequences, traced.stats, strict=True):
        check(trace, sequence, stats)
        after = after_last_mask(trace, stats.forwards)
        assert stats.forwards_after_last_mask == after > 0
        assert stats.share_after_last_mask == after / stats.forwards


def test_without_a_trace_nothing_is_recorded(golden_model, prompts, monkeypatch):
    """A step is what it was, but for one question whether there is something to record."""

    def never(*_):
        raise AssertionError("this step is traced")

    monkeypatch.setattr(step, "Seen", never)
    out = Decoder(golden_model).generate(prompts, **GOLDEN)
    assert out.traces is None and all(stats.oscillations is None for stats in out.stats)


def test_every_way_in_gives_the_same_trace(golden_model, prompts):
    decoder, options = (
        Decoder(golden_model),
        GOLDEN | {"trace": True, "seed": 1, "max_new_tokens": 20},
    )
    (want,) = decoder.generate(prompts[0], **options).traces
    *_, end = decoder.stream(prompts[0], **options)
    (result,) = decoder.as_completed(prompts[0], **options)
    with decoder.engine() as living:
        living.add(prompts[0], **options)
        living.add(prompts[0], **options | {"trace": False})
        ends = {}
        while not living.idle:
            ends |= {event.request: event for event in living.step() if event.kind == "end"}
    assert want.steps == end.trace.steps == result.trace.steps == ends[0].trace.steps
    assert ends[1].trace is None and ends[1].stats.oscillations is None
    assert end.stats.oscillations == want.oscillations()


def test_a_request_that_begins_again_is_traced_once(golden_model, prompts):
    """Its block is begun again where a step was interrupted; nothing of it is there twice."""
    decoder, options = (
        Decoder(golden_model),
        GOLDEN | {"trace": True, "seed": 1, "max_new_tokens": 20},
    )
    (want,) = decoder.generate(prompts[0], **options).traces
    steps = itertools.count(1)
    ended = False
    while not ended:  # in every step, those between two blocks as well
        broken = next(steps)
        with decoder.engine() as living:
            living.add(prompts[0], **options)
            for number in itertools.count():
                if number == broken:
                    living.reset()
                events = living.step()
                if living.idle:
                    break
        ended = number < broken
        end = events[-1]
        assert end.trace.sequence == want.sequence
        assert end.trace.counts() == want.counts()
        check(end.trace, torch.tensor(want.sequence), end.stats)
    assert broken > 12


def test_a_request_that_never_begins_has_an_empty_trace():
    decoder = Decoder.from_pretrained("tiny", device="cpu")
    asked = ["1+2=", "", "3+4="]
    out = decoder.generate(asked, trace=True, errors="return", max_new_tokens=4)
    assert [bool(trace.sequence) for trace in out.traces] == [True, False, True]
    assert out.traces[1].steps == [] and out.errors[1] is not None
    (trace,) = decoder.generate("1+2=", trace=True, max_new_tokens=0).traces
    assert trace.steps == [] and trace.sequence == []
    with decoder.engine(max_batch=1) as living:
        first, waits = (living.add("1+2=", trace=True, max_new_tokens=4) for _ in range(2))
        living.abort(waits)
        ends = {}
        while not living.idle:
            ends |= {event.request: event for event in living.step() if event.kind == "end"}
    assert ends[waits].trace.steps == [] and ends[first].trace.sequence
