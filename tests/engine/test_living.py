"""Requests come and go in any order, in any company: each gives what it gives alone."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from living import (
    CONFIGS,
    PROMPTS,
    Alone,
    by_request,
    check,
    check_empty,
    comparable,
    ids_of,
)

from fastedit import Decoder
from fastedit.engine import engine
from fastedit.plans import block

pytestmark = pytest.mark.filterwarnings("ignore:temperature", "ignore:block_length")

ADDING = st.tuples(
    st.just("add"), st.integers(0, len(PROMPTS) - 1), st.sampled_from(sorted(CONFIGS))
)
PROGRAM = st.lists(
    st.one_of(
        ADDING,
        ADDING,
        st.tuples(st.just("step"), st.integers(1, 12)),
        st.tuples(st.just("step"), st.integers(1, 40)),
        st.tuples(st.just("abort"), st.integers(0, 7)),
        st.tuples(st.just("reset")),
    ),
    min_size=4,
    max_size=16,
)


@pytest.fixture(scope="module")
def alone(golden_model, tokenizer):
    return Alone(golden_model, tokenizer)


def run(living, program):
    """What was added, by number, and all events, those of the requests that are left included."""
    added, events = {}, []
    for kind, *values in program:
        if kind == "add":
            which, name = values
            number = living.add(PROMPTS[which], config=CONFIGS[name], drafts=name == "one")
            assert number == len(added)
            added[number] = which, name
        elif kind == "step":
            for _ in range(values[0]):
                events += living.step()
        elif kind == "abort" and values[0] < len(added):
            living.abort(values[0])
        elif kind == "reset":
            living.reset()
    for _ in range(2000):
        if living.idle:
            break
        events += living.step()
    assert living.step() == []
    return added, events


@settings(max_examples=6, deadline=None)
@given(
    delay=st.sampled_from([0, 1]),
    program=PROGRAM,
    chunk=st.sampled_from([8, 16, 2048]),
    copied=st.sampled_from([16, 65536]),
    max_batch=st.integers(1, 3),
)
@example(
    delay=0,
    program=[*(("add", i, "quality") for i in (0, 1, 2, 3)), ("step", 2), ("abort", 1)],
    chunk=8,
    copied=16,
    max_batch=3,
)
@example(
    delay=1,
    program=[*(("add", i % 5, name) for i, name in enumerate(CONFIGS)), ("step", 9), ("reset",)],
    chunk=16,
    copied=65536,
    max_batch=3,
)
def test_any_request_gives_what_it_gives_alone(
    golden_model, tokenizer, alone, delay, program, chunk, copied, max_batch
):
    with pytest.MonkeyPatch.context() as patch:
        wants = [alone(*values) for kind, *values in program if kind == "add"]
        patch.setattr(block, "PREFILL_CHUNK", chunk)
        patch.setattr(block, "COPIED", copied)
        patch.setitem(engine.DELAY, "cpu", delay)
        with Decoder(golden_model, tokenizer).engine(max_batch=max_batch) as living:
            added, events = run(living, program)
            own = by_request(events)
            assert sorted(own) == sorted(added) and len(wants) == len(added)
            for number, (_, name) in added.items():
                check(own[number], wants[number], name)
                drafts = [event for event in own[number] if event.kind == "draft"]
                assert not drafts or name == "one"
            check_empty(living)


@pytest.mark.parametrize("delay", [0, 1])
def test_no_request_waits_for_good_beside_others_of_another_lane(
    golden_model, alone, monkeypatch, delay
):
    """Lanes are stepped in turn, however many requests the others have."""
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    with Decoder(golden_model).engine(max_batch=9) as living:
        crowd = [living.add(PROMPTS[i % 5], config=CONFIGS["quality"]) for i in range(6)]
        few = [living.add(PROMPTS[3], config=CONFIGS[name]) for name in ("uncached", "remasked")]
        forwards, ended = 0, {}
        while not living.idle:
            ended |= {event.request: forwards for event in living.step() if event.kind == "end"}
            forwards += 1
        assert sorted(ended) == [*crowd, *few]
        for number, name in zip(few, ("uncached", "remasked"), strict=True):
            assert ended[number] <= 3 * (alone(3, name)[2].forwards + 2)


@pytest.mark.parametrize("moment", [0, 1, 4, 9, 15, 200])
def test_an_aborted_request_ends_with_what_it_had_committed(golden_model, alone, moment):
    with Decoder(golden_model).engine() as living:
        numbers = [living.add(PROMPTS[i], config=CONFIGS["speed"]) for i in (1, 2)]
        events = [event for _ in range(moment) for event in living.step()]
        before = ids_of([event for event in events if event.request == numbers[0]])
        for _ in range(2):  # the second time nothing happens
            living.abort(numbers[0])
        while not living.idle:
            events += living.step()
        own = by_request(events)
        assert ids_of(own[numbers[0]]) == before
        reason = own[numbers[0]][-1].stats.finish_reason
        assert reason == ("aborted" if moment < 200 else alone(1, "speed")[2].finish_reason)
        assert ids_of(own[numbers[1]]) == alone(2, "speed")[0]
        for unknown in (-1, 2):
            with pytest.raises(ValueError, match=f"no request has number {unknown}"):
                living.abort(unknown)
        for wrong in ("x", None, 1.0, True):
            with pytest.raises(TypeError, match=f"the number that `add` returned; got {wrong!r}"):
                living.abort(wrong)


def test_more_lanes_come_and_go_than_are_kept(golden_model):
    """A lane per block length, of which two have somebody in them at a time."""
    configs = [
        CONFIGS["speed"].replace(block_length=length, max_new_tokens=9) for length in range(1, 11)
    ] * 2
    with Decoder(golden_model).engine(max_batch=2) as living:
        for config in configs:
            living.add(PROMPTS[1], config=config)
        events = []
        while not living.idle:
            events += living.step()
        assert len(living._engine.lanes) <= engine.LANES
        check_empty(living)
    for number, own in by_request(events).items():
        want = Decoder(golden_model).generate(PROMPTS[1], config=configs[number])
        assert ids_of(own) == want.sequences[0].tolist()
        assert comparable(own[-1].stats) == comparable(want.stats[0])
