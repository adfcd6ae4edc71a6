"""Whatever goes wrong between two forwards, no request is lost and none goes on for ever."""

from dataclasses import dataclass

import pytest
import torch
from cases import GOLDEN, prompt, results

from fastedit import Decoder, policies
from fastedit.engine.lane import Lane
from fastedit.engine.store import KEPT, Store
from fastedit.results import ModelError

OPTIONS = GOLDEN | {"eos_token_id": []}


def drain(engine, most=400):
    events = []
    for _ in range(most):
        if engine.idle:
            return events
        events += engine.step()
    raise AssertionError("it never ends")


def test_what_ended_in_an_interrupted_step_has_its_event(golden_model, monkeypatch):
    follow, hit = Lane._follow, []

    def interrupted(self, record, finished):
        opened = follow(self, record, finished)
        if finished and not hit:
            hit.append(True)
            raise KeyboardInterrupt
        return opened

    asked = [(prompt(n), OPTIONS | {"max_new_tokens": m}) for n, m in ((3, 4), (9, 40))]
    want = [Decoder(golden_model).generate(ids, **options).stats[0] for ids, options in asked]
    monkeypatch.setattr(Lane, "_follow", interrupted)
    with Decoder(golden_model).engine() as engine:
        for ids, options in asked:
            engine.add(ids, **options)
        with pytest.raises(KeyboardInterrupt):
            while True:
                engine.step()
        events = drain(engine)
    ends = {event.request: event.stats.tokens for event in events if event.kind == "end"}
    assert ends == {number: stats.tokens for number, stats in enumerate(want)}


def test_a_policy_that_cannot_open_a_block_fails_its_requests_alone(golden_model):
    @dataclass(frozen=True)
    class Broken(policies.LowConfidence):
        def open(self, view):
            raise ZeroDivisionError("a rule")

    with Decoder(golden_model).engine() as engine:
        good = engine.add(prompt(9), **OPTIONS)
        plain = {name: value for name, value in OPTIONS.items() if name != "max_post_steps"}
        bad = engine.add(prompt(9), policy=Broken(), **plain)
        ends = {event.request: event for event in drain(engine) if event.kind == "end"}
    assert isinstance(ends[bad].error, ModelError) and "a rule" in str(ends[bad].error)
    assert ends[good].error is None and ends[good].stats.finish_reason == "length"


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_requests_of_any_length_come_and_go_for_long(golden_model, seed):
    """More of them end than are kept, and some need several units of the pool."""
    generator = torch.Generator().manual_seed(seed)
    decoder, want = Decoder(golden_model), {}
    with decoder.engine(max_batch=3) as engine:
        events = []
        for _ in range(3 * KEPT):
            length, new = (
                int(torch.randint(1, most, (), generator=generator)) for most in (60, 20)
            )
            options = OPTIONS | {"max_new_tokens": new}
            want[engine.add(prompt(length), **options)] = (prompt(length), options)
            events += engine.step()
        events += drain(engine, 4000)
    for number, (ids, options) in want.items():
        got = [i for event in events if event.request == number for i in event.ids]
        assert got == decoder.generate(ids, **options).sequences[0].tolist()


def test_a_pool_without_a_limit_grows_by_halves():
    store = Store(torch.device("cpu"), 8, even=True)
    grown = []
    for _ in range(40):
        store._range(8, alone=False)
        grown.append(store.grown)
    assert grown[-1] < 12


def test_another_model_of_a_decoder_is_the_one_that_decodes(golden_model):
    decoder = Decoder(golden_model)
    want = results(decoder.generate(prompt(9), **OPTIONS))
    calls = []

    def other(**inputs):
        calls.append(inputs)
        return golden_model(**inputs)

    decoder.model = other
    assert results(decoder.generate(prompt(9), **OPTIONS)) == want and calls


def test_text_that_was_withheld_comes_before_the_end(golden_model, tokenizer):
    """It might have become a stop text; an abort decides that it does not."""
    options = OPTIONS | {"mask_token_id": 127, "max_new_tokens": 64}
    whole = Decoder(golden_model, tokenizer).generate(prompt(9), **options).texts[0]
    stop = whole[5:8] + "\N{SNOWMAN}"  # begins in the first block, and never comes
    with Decoder(golden_model, tokenizer).engine() as engine:
        number = engine.add(prompt(9), stop=[stop, whole[6:40] + "!"], **options)
        events = []
        while not any(event.kind == "commit" for event in events):
            events += engine.step()
        engine.abort(number)
        events += drain(engine)
    end = events[-1]
    text = "".join(event.text for event in events)
    ids = [i for event in events for i in event.ids]
    assert end.stats.finish_reason == "aborted" and len(ids) == end.stats.tokens
    assert text == tokenizer.decode(ids, skip_special_tokens=True)
