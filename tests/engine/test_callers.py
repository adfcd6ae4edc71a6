"""Many threads add, abort and step; what is refused leaves no trace; what is closed is gone."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import GOLDEN, SCRIPTED, scripted
from living import CONFIGS, PROMPTS, Alone, by_request, check, check_empty, ids_of

from fastedit import Decoder
from fastedit.memory.kv import Layer

pytestmark = pytest.mark.filterwarnings("ignore:temperature", "ignore:block_length")
NAMES = ["speed", "uncached", "low confidence", "one", "nothing", "longer blocks"]


@pytest.fixture(scope="module")
def alone(golden_model):
    alone = Alone(golden_model)
    for which in range(len(PROMPTS)):
        for name in NAMES:
            alone(which, name)
    return alone


def drive(living, done):
    """All events that this thread gets, until `done` is set and nothing is left."""
    events = []
    while not (done.is_set() and living.idle):
        events += living.step()
    return events


@pytest.mark.parametrize("stepping", [1, 2])
def test_threads_add_and_abort_while_others_step(golden_model, alone, stepping):
    """No event is lost or doubled, and the results are those of each request alone."""
    added, done = {}, threading.Event()
    with Decoder(golden_model).engine(max_batch=4) as living:

        def caller(thread):
            for turn in range(4):
                which, name = (thread + turn) % 5, NAMES[(thread + 2 * turn) % len(NAMES)]
                number = living.add(PROMPTS[which], config=CONFIGS[name])
                assert number not in added
                added[number] = which, name
                if thread % 4 == 1:
                    time.sleep(0.003 * turn)
                    living.abort(number)

        with ThreadPoolExecutor(8 + stepping) as pool:
            drivers = [pool.submit(drive, living, done) for _ in range(stepping)]
            callers = [pool.submit(caller, thread) for thread in range(8)]
            for future in callers:
                future.result()
            done.set()
            gathered = [future.result() for future in drivers]
        ends = [event.request for events in gathered for event in events if event.kind == "end"]
        assert sorted(ends) == sorted(added) == list(range(32))
        if stepping == 1:  # else only each thread's events are in order
            own = by_request(gathered[0])
        else:
            everything = [event for events in gathered for event in events]
            everything.sort(key=lambda event: (event.kind == "end", event.block))
            own = by_request(everything)
        for number, (which, name) in added.items():
            check(own[number], alone(which, name), name)
        check_empty(living)


def test_steps_are_taken_one_after_the_other(golden_model):
    inside, together = [0], []

    class Model:
        config, parameters = golden_model.config, golden_model.parameters

        def __call__(self, **inputs):
            inside[0] += 1
            together.append(inside[0])
            time.sleep(0)
            out = golden_model(**inputs)
            inside[0] -= 1
            return out

    done = threading.Event()
    done.set()
    with Decoder(Model()).engine() as living, ThreadPoolExecutor(3) as pool:
        for prompt in PROMPTS:
            living.add(prompt, config=CONFIGS["speed"])
        for future in [pool.submit(drive, living, done) for _ in range(3)]:
            future.result()
    assert set(together) == {1}


def test_an_engine_is_idle_only_when_no_event_is_left(golden_model, monkeypatch):
    """Who stops at `idle` must have seen the end of a request that another thread aborts."""
    with Decoder(golden_model).engine() as living:
        seen = []

        class Events(type(living._events)):
            def append(self, event):
                seen.append(living.idle)
                super().append(event)

        monkeypatch.setattr(living, "_events", Events())
        number = living.add(PROMPTS[0], config=CONFIGS["speed"])
        living.abort(number)
        assert seen == [False]


def test_a_request_that_is_being_added_may_be_aborted(golden_model):
    """By one who guesses its number: before or after, but never half in."""
    with Decoder(golden_model).engine() as living, ThreadPoolExecutor(1) as pool:
        enqueue, guesses = living._engine.enqueue, []

        def slow(requests):
            guesses.append(pool.submit(living.abort, 0))
            time.sleep(0.05)
            enqueue(requests)

        living._engine.enqueue = slow
        number = living.add(PROMPTS[0], config=CONFIGS["speed"])
        guesses[0].result()
        (end,) = living.step()
        assert (end.request, end.stats.finish_reason) == (number, "aborted") and living.idle


BAD = {
    "empty": ([], {}),
    "text without a tokenizer": ("hello", {}),
    "a mask": ([9, 127], {}),
    "outside the vocabulary": ([9, 99999], {}),
    "two prompts": ([[1, 2], [3, 4]], {}),
    "none": (None, {}),
    "too long": (PROMPTS[0], {"max_new_tokens": 10**7}),
    "an unknown option": (PROMPTS[0], {"gen_len": 4}),
    "a bad option": (PROMPTS[0], {"threshold": "high"}),
    "a list of configs": (PROMPTS[0], {"config": [CONFIGS["speed"]] * 2}),
    "several seeds": (PROMPTS[0], {"seed": [1, 2]}),
}


@pytest.mark.parametrize(("prompt", "options"), BAD.values(), ids=BAD)
def test_what_cannot_be_decoded_leaves_the_engine_as_it_was(golden_model, alone, prompt, options):
    with Decoder(golden_model).engine() as living:
        first = living.add(PROMPTS[0], config=CONFIGS["speed"])
        events = living.step()
        with pytest.raises((TypeError, ValueError)):
            living.add(prompt, **{"config": CONFIGS["speed"]} | options)
        second = living.add(PROMPTS[1], config=CONFIGS["speed"])
        assert (first, second) == (0, 1)
        while not living.idle:
            events += living.step()
        own = by_request(events)
        assert [ids_of(own[i]) for i in (0, 1)] == [alone(i, "speed")[0] for i in (0, 1)]


def test_a_closed_engine_takes_nothing(golden_model):
    living = Decoder(golden_model).engine()
    number = living.add(PROMPTS[0], config=CONFIGS["speed"])
    living.step()
    for _ in range(2):  # closing again is nothing
        living.close()
        assert living.idle
        with pytest.raises(RuntimeError, match="this engine is closed"):
            living.add(PROMPTS[0])
        with pytest.raises(RuntimeError, match="this engine is closed"):
            living.step()
        living.abort(number)


def test_one_may_close_while_others_add_and_step(golden_model):
    living = Decoder(golden_model).engine(max_batch=2)

    def busy(call):
        with pytest.raises(RuntimeError, match="this engine is closed"):
            while True:
                call()

    with ThreadPoolExecutor(4) as pool:
        calls = [lambda: living.add(PROMPTS[3], config=CONFIGS["speed"])] * 2 + [living.step] * 2
        futures = [pool.submit(busy, call) for call in calls]
        time.sleep(0.1)
        living.close()
        for future in futures:
            future.result()
    assert living.idle and living._engine.idle


@pytest.fixture
def layers(monkeypatch):
    """The layers of keys and values that are still there, while Python looks for no cycles."""
    made, make = [], Layer.__init__

    def watched(layer, *arguments):
        make(layer, *arguments)
        made.append(weakref.ref(layer))

    monkeypatch.setattr(Layer, "__init__", watched)
    gc.collect()
    gc.disable()
    yield lambda: [layer() for layer in made if layer() is not None]
    gc.enable()
    assert made


def test_a_closed_engine_gives_its_memory_back(golden_model, layers):
    decoder = Decoder(golden_model)
    living = decoder.engine()
    for name in ("speed", "longer blocks", "uncached", "lookahead"):
        for prompt in PROMPTS:
            living.add(prompt, config=CONFIGS[name])
    for _ in range(40):
        living.step()
    assert layers()
    living.close()
    assert not layers()


def test_an_engine_that_nobody_has_any_more_is_gone(golden_model, layers):
    living = Decoder(golden_model).engine()
    living.add(PROMPTS[0], config=CONFIGS["speed"])
    ended = living.add(PROMPTS[3], max_new_tokens=2, **_without(GOLDEN, "max_new_tokens"))
    while ended not in [event.request for event in living.step() if event.kind == "end"]:
        pass
    assert layers()
    gone = weakref.ref(living)
    del living
    assert gone() is None and not layers()


def test_a_reset_frees_what_is_kept_and_goes_on(golden_model, alone, layers):
    with Decoder(golden_model).engine() as living:
        living.add(PROMPTS[1], config=CONFIGS["speed"])
        events = [event for _ in range(9) for event in living.step()]
        assert layers()
        living.reset()
        assert not layers()
        while not living.idle:
            events += living.step()
        check(events, alone(1, "speed"), "speed")


def test_an_engine_decodes_beside_calls_of_its_decoder(golden_model, alone):
    decoder = Decoder(golden_model)
    with decoder.engine() as living:
        living.add(PROMPTS[1], config=CONFIGS["speed"])
        events = living.step()
        out = decoder.generate(PROMPTS[2], config=CONFIGS["speed"])
        while not living.idle:
            events += living.step()
        check(events, alone(1, "speed"), "speed")
    assert out.sequences[0].tolist() == alone(2, "speed")[0]


def test_interrupted_steps_lose_nothing():
    """Ctrl-C in a step: the block begins again, with the same result."""

    class Interrupting:
        def __init__(self):
            self.model, self.calls = scripted(), 0
            self.config = self.model.config

        def __call__(self, **inputs):
            self.calls += 1
            if self.calls in (2, 7):
                raise KeyboardInterrupt
            return self.model(**inputs)

    options = SCRIPTED | {"seed": 1, "max_new_tokens": 11}
    prompts = [torch.tensor([1, 2]), torch.tensor([3])]
    want = Decoder(scripted()).generate(prompts, **options)
    with Decoder(Interrupting()).engine() as living:
        events, interrupts = [], 0
        for prompt in prompts:
            living.add(prompt, **options)
        while not living.idle:
            try:
                events += living.step()
            except KeyboardInterrupt:
                interrupts += 1
        own = by_request(events)
    assert interrupts == 2
    for number, (ids, stats) in enumerate(zip(want.sequences, want.stats, strict=True)):
        assert ids_of(own[number]) == ids.tolist() and own[number][-1].stats == stats


def _without(options, name):
    return {key: value for key, value in options.items() if key != name}


def test_no_call_copies_the_vocabulary_of_a_tokenizer(golden_model, tokenizer, monkeypatch):
    """That of a real model takes tens of milliseconds to copy."""
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda _: pytest.fail("it was copied"))
    decoder = Decoder(golden_model, tokenizer)
    want = decoder.generate(torch.arange(10, 14), **GOLDEN)
    events = []
    with decoder.engine() as engine:
        number = engine.add(torch.arange(10, 14), **GOLDEN)
        while not events or events[-1].kind != "end":
            events += engine.step()
    assert ids_of(by_request(events)[number]) == want.sequences[0].tolist()
