"""A forward that fails ends its own requests, and nobody else's."""

import math

import pytest
import torch
from cases import GOLDEN
from living import CONFIGS, PROMPTS, Alone, by_request, check, check_empty, ids_of

from fastedit import BadLogitsError, Decoder
from fastedit.engine import engine
from fastedit.plans import block
from fastedit.results import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:temperature", "ignore:block_length")


class Failing:
    """A model that raises in the calls for which `fails(inputs)` says so."""

    def __init__(self, model, fails):
        self.model, self.config, self.parameters = model, model.config, model.parameters
        self.fails, self.failures = fails, 0

    def __call__(self, **inputs):
        if self.fails(inputs):
            self.failures += 1
            raise KeyError("a weight")
        return self.model(**inputs)


@pytest.fixture(scope="module")
def alone(golden_model):
    return Alone(golden_model)


def at(number):
    """Whether it is the call of that number."""
    calls = iter(range(10**6))
    return lambda inputs: next(calls) == number


def drained(living):
    events = []
    while not living.idle:
        events += living.step()
    return events


def check_failed(events, want):
    ids, end = ids_of(events), events[-1]
    assert isinstance(end.error, ModelError) and isinstance(end.error.__cause__, KeyError)
    assert end.stats.finish_reason == "error" and end.stats.tokens == len(ids)
    assert str(end.error) == f"request {end.request}: its forward raised KeyError: 'a weight'"
    assert end.error.index == end.request and ids == want[0][: len(ids)]


@pytest.mark.parametrize(("number", "delay"), [(0, 0), (1, 1), (5, 0), (5, 1), (20, 1), (45, 0)])
def test_requests_of_a_failed_forward_end_and_the_others_go_on(
    golden_model, alone, monkeypatch, delay, number
):
    """Those of another lane, those that wait, and those that come later."""
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    model = Failing(golden_model, at(number))
    cases = [(which, name) for name in ("quality", "longer blocks") for which in (0, 1, 2)]
    with Decoder(model).engine(max_batch=4) as living:
        for which, name in cases:
            living.add(PROMPTS[which], config=CONFIGS[name])
        events = drained(living)
        check_empty(living)
        cases.append((0, "quality"))
        living.add(PROMPTS[0], config=CONFIGS["quality"])
        own = by_request(events + drained(living))
        check_empty(living)
    assert model.failures == 1
    failed = [i for i in own if own[i][-1].error is not None]
    assert 1 <= len(failed) <= 4 and len({cases[i][1] for i in failed}) == 1
    for i, case in enumerate(cases):
        if i in failed:
            check_failed(own[i], alone(*case))
        else:
            check(own[i], alone(*case), case[1])


@pytest.mark.parametrize("chunk", [8, 16])
def test_a_prefill_that_fails_ends_those_of_its_rows_alone(golden_model, alone, monkeypatch, chunk):
    """The others, whose prompts are not in the pool either, were in no forward that failed."""
    monkeypatch.setattr(block, "PREFILL_CHUNK", chunk)
    failing = PROMPTS[1][24:32]  # its last block; only the ones before it are shared
    model = Failing(golden_model, lambda inputs: (inputs["input_ids"] == failing).all(1).any())
    cases = [(4, "quality"), (1, "quality"), (2, "quality"), (3, "quality")]
    with Decoder(model).engine() as living:
        for which, name in cases:
            living.add(PROMPTS[which], config=CONFIGS[name])
        own = by_request(drained(living))
        check_empty(living)
    assert model.failures == 1
    check_failed(own[1], alone(1, "quality"))
    for i in (0, 2, 3):
        check(own[i], alone(*cases[i]), "quality")


@pytest.mark.parametrize("delay", [0, 1])
def test_a_prefill_that_fails_is_no_step_of_those_that_decode(
    golden_model, alone, monkeypatch, delay
):
    """Whatever they did in the step before it, the host has yet to see it where it lags behind."""
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    first = PROMPTS[1][:8]
    model = Failing(golden_model, lambda inputs: (inputs["input_ids"] == first).all(1).any())
    with Decoder(model).engine() as living:
        living.add(PROMPTS[3], config=CONFIGS["speed"])
        events = living.step()
        for _ in range(alone(3, "speed")[2].forwards // 2 + 1):
            living.add(PROMPTS[1], config=CONFIGS["speed"])
            events += living.step() + living.step()
        events += [event for _ in range(9) for event in living.step()]
        own = by_request(events)
    check(own.pop(0), alone(3, "speed"), "speed")
    assert model.failures == len(own) > 5
    for number in own:
        check_failed(own[number], alone(1, "speed"))


@pytest.mark.parametrize("delay", [0, 1])
def test_a_request_with_bad_logits_fails_alone_and_its_room_is_free_at_once(
    golden_model, alone, monkeypatch, delay
):
    monkeypatch.setitem(engine.DELAY, "cpu", delay)

    def poisoned(**inputs):
        """Position 26 of the prompt that begins as the second one is bad."""
        out = golden_model(**inputs)
        places = inputs["position_ids"].expand_as(inputs["input_ids"])
        for row, place in (places == 36).nonzero().tolist():
            if inputs["input_ids"][row, 0] == PROMPTS[1][32]:
                out.logits[row, place] = math.nan
        return out

    with Decoder(poisoned).engine(max_batch=2) as living:
        for which in (1, 0, 4, 2):
            living.add(PROMPTS[which], config=CONFIGS["speed"], mask_token_id=127)
        events, ended = [], False
        while not ended:
            assert not any(request.number == 2 for request in living._engine.inside)
            events += living.step()
            ended = any(event.kind == "end" and event.request == 0 for event in events)
        store = living._engine.store
        assert len(store.prefixes.paths) == 1 and store.extents.free.count(False) == 1
        events += living.step()
        assert {request.number for request in living._engine.inside} == {1, 2}
        own = by_request(events + drained(living))
        check_empty(living)
    end = own[0][-1]
    assert isinstance(end.error, BadLogitsError) and end.error.position == 36
    assert end.stats.finish_reason == "error" and ids_of(own[0]) == []
    for number, which in ((1, 0), (2, 4), (3, 2)):
        check(own[number], alone(which, "speed"), "speed")


def test_what_a_failed_request_computed_serves_nobody(golden_model, alone):
    """Its keys may be as bad as its logits: the next one computes its prompt itself."""
    bad = [True]

    def model(**inputs):
        out = golden_model(**inputs)
        if bad[0] and (inputs["input_ids"] == 127).any():
            out.logits[:] = math.inf
        return out

    with Decoder(model).engine() as living:
        living.add(PROMPTS[1], config=CONFIGS["speed"])
        (end,) = drained(living)
        assert isinstance(end.error, BadLogitsError) and end.stats.prefill_forwards == 1
        bad[0] = False
        living.add(PROMPTS[1], config=CONFIGS["speed"])
        events = drained(living)
        assert events[-1].stats.prefill_forwards == 1
        check(events, alone(1, "speed"), "speed")


@pytest.mark.parametrize("delay", [0, 1])
def test_a_model_that_always_fails_leaves_an_engine_that_works(
    golden_model, alone, monkeypatch, delay
):
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    down = [True]
    model = Failing(golden_model, lambda inputs: down[0])
    with Decoder(model).engine(max_batch=2) as living:
        for _ in range(3):
            for prompt in PROMPTS:
                living.add(prompt, **GOLDEN)
        own = by_request(drained(living))
        assert all(isinstance(events[-1].error, ModelError) for events in own.values())
        assert len(own) == 15 and all(len(events) == 1 for events in own.values())
        check_empty(living)
        down[0] = False
        living.add(PROMPTS[0], config=CONFIGS["quality"])
        check(drained(living), alone(0, "quality"), "quality")


def test_an_engine_steps_on_in_training_mode_and_leaves_it(golden_model, alone):
    """Also where a forward fails."""
    model = golden_model
    model.train()
    try:
        with Decoder(model).engine() as living:
            living.add(PROMPTS[0], config=CONFIGS["speed"])
            events = living.step()
            assert model.training
            check(events + drained(living), alone(0, "speed"), "speed")
    finally:
        model.eval()
    assert torch.is_inference_mode_enabled() is False
