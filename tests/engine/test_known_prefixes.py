"""What is known is not computed again, and what other weights computed is not known."""

import copy
import warnings

import pytest
import torch
from cases import GOLDEN, results
from fakes import Recorder
from living import CONFIGS, PROMPTS, by_request, comparable, ids_of
from peft import LoraConfig, get_peft_model

from fastedit import Decoder

B, MASK = GOLDEN["block_length"], GOLDEN["mask_token_id"]
NEW = 14
OPTIONS = GOLDEN | {"threshold": 0.7, "editing_threshold": 0.5, "max_new_tokens": NEW}
A, LONGER, OTHER = PROMPTS[:3]  # whose first 2, 4 and 3 blocks are known from their ids
pytestmark = pytest.mark.filterwarnings("ignore:temperature", "ignore:block_length")


def prefilled(model):
    """(position, ids) of the rows that prompts took, a block each; forgets them."""
    rows = []
    for ids, positions, cached in model.calls:
        if not any(MASK in row for row in ids) and cached:
            rows += [(places[0], *row) for row, places in zip(ids, positions, strict=True)]
    model.calls.clear()
    return rows


def blocks(prompt):
    ids = prompt.tolist()
    return {(start, *ids[start : start + B]) for start in range(0, len(ids) // B * B, B)}


def one_token(decoder, prompts, **options):
    """One block each, so that whatever is behind the prompts is computed with masks in it."""
    return decoder.generate(
        prompts, **OPTIONS | {"max_new_tokens": 1, "max_post_steps": 0}, **options
    )


@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_a_shared_prefix_is_computed_once_in_a_call_and_not_at_all_in_the_next(
    golden_model, max_batch
):
    model = Recorder(golden_model)
    decoder = Decoder(model)
    want = one_token(Decoder(golden_model), [A, LONGER, OTHER], max_batch=max_batch)
    got = one_token(decoder, [A, LONGER, OTHER], max_batch=max_batch)
    rows = prefilled(model)
    assert set(rows) >= blocks(A) | blocks(LONGER) | blocks(OTHER)
    assert len(rows) == len(set(rows)) == 5
    order = [2, 0, 1] if max_batch > 1 else [2]  # else they take each other's room
    again = one_token(decoder, [(A, LONGER, OTHER)[i] for i in order], max_batch=max_batch)
    assert not prefilled(model)
    assert sum(stats.prefill_forwards for stats in again.stats) == 0
    assert results(got) == results(want)
    assert results(again) == [results(want)[i] for i in order]


def test_answers_are_known_as_well(golden_model):
    """A chat goes on: its next prompt is what was there, the answer, and a few ids more."""
    model = Recorder(golden_model)
    decoder = Decoder(model)
    answer = decoder.generate(LONGER, **OPTIONS | {"eos_token_id": []}).sequences[0]
    model.calls.clear()
    further = torch.cat((LONGER, answer, LONGER[:13]))
    fresh = one_token(Decoder(golden_model), [further])
    assert results(one_token(decoder, [further])) == results(fresh)
    known = (len(LONGER) + len(answer) - 1) // B * B  # no forward saw the last block final
    assert sorted(prefilled(model)) == sorted(row for row in blocks(further) if row[0] >= known)


def test_the_same_ids_elsewhere_are_not_the_same_block(golden_model):
    model = Recorder(golden_model)
    decoder = Decoder(model)
    one_token(decoder, [LONGER])
    prefilled(model)
    moved = torch.cat((LONGER[B : 2 * B], LONGER[:B], LONGER[2 * B :]))
    got = one_token(decoder, [moved])
    assert len(prefilled(model)) == 4
    assert results(got) == results(one_token(Decoder(golden_model), [moved]))


def test_blocks_of_another_length_or_without_a_cache_share_nothing(golden_model):
    model = Recorder(golden_model)
    with Decoder(model).engine() as living:
        for options in ({}, {"block_length": 16}, {"use_cache": False}, {"block_length": 4}):
            config = CONFIGS["speed"].replace(max_new_tokens=3, **options)
            want = Decoder(golden_model).generate(LONGER, config=config)
            living.add(LONGER, config=config)
            events = []
            while not living.idle:
                events += living.step()
            assert ids_of(events) == want.sequences[0].tolist()
            assert comparable(events[-1].stats) == comparable(want.stats[0])
            assert events[-1].stats.prefill_forwards == want.stats[0].prefill_forwards


def test_a_request_takes_what_one_beside_it_has(golden_model):
    """Of one that still decodes, its answer included."""
    with Decoder(golden_model).engine() as living:
        living.add(LONGER, config=CONFIGS["quality"], max_new_tokens=80, eos_token_id=[])
        events = []
        while len(ids_of(events)) < 3 * B:
            events += living.step()
        said = torch.cat((LONGER, torch.tensor(ids_of(events))))
        number = living.add(said[: 6 * B + 2], config=CONFIGS["quality"])
        while not living.idle:
            events += living.step()
        own = by_request(events)
    assert own[number][-1].stats.prefill_forwards == 0
    want = Decoder(golden_model).generate(said[: 6 * B + 2], config=CONFIGS["quality"])
    assert ids_of(own[number]) == want.sequences[0].tolist()
    assert comparable(own[number][-1].stats) == comparable(want.stats[0])


def in_place(model):
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(0.05)


def through_an_optimizer(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ids = LONGER[None]
    model(input_ids=ids).logits.logsumexp(-1).mean().backward()
    optimizer.step()
    model.zero_grad()
    model.eval()


def replaced(model):
    norm = model.model.norm
    norm.weight = torch.nn.Parameter(
        norm.weight.detach() * torch.linspace(0.2, 2, len(norm.weight))
    )


def module_replaced(model):
    other = copy.deepcopy(model.model.layers[1])
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    model.model.layers[1] = other


def loaded(model):
    state = model.state_dict()
    model.load_state_dict({name: value * 1.3 for name, value in state.items()})


def another_dtype(model):
    model.to(torch.bfloat16)


CHANGES = [in_place, through_an_optimizer, replaced, module_replaced, loaded, another_dtype]


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_compute_anew(golden_model, change):
    """Between two calls, and in an engine that lives on with nobody in it."""
    inner = copy.deepcopy(golden_model)
    decoder = Decoder(inner)
    before = one_token(decoder, [LONGER]), decoder.generate(LONGER, **OPTIONS)
    with decoder.engine() as living:
        living.add(LONGER, **OPTIONS)
        while not living.idle:
            living.step()
        change(inner)
        got = decoder.generate(LONGER, **OPTIONS)
        living.add(LONGER, **OPTIONS)
        events = []
        while not living.idle:
            events += living.step()
    want = Decoder(inner).generate(LONGER, **OPTIONS)
    assert results(got) == results(want) and got.stats[0].prefill_forwards == 1
    assert ids_of(events) == want.sequences[0].tolist()
    assert events[-1].stats == want.stats[0]
    assert results(got) != results(before[1])


@pytest.mark.parametrize(
    ("steps", "chunk"), [(0, 8), (1, 2048), (2, 8), (3, 8), (9, 2048), (14, 8)]
)
def test_weights_that_change_while_requests_decode_leave_an_engine_that_works(
    golden_model, monkeypatch, steps, chunk
):
    """The next one that comes in computes its prompt with the weights that are there."""
    monkeypatch.setattr("fastedit.plans.block.PREFILL_CHUNK", chunk)
    inner = copy.deepcopy(golden_model)
    with Decoder(inner).engine() as living:
        for prompt in (LONGER, OTHER):
            living.add(prompt, **OPTIONS)
        events = [event for _ in range(steps) for event in living.step()]
        committed = [ids_of([e for e in events if e.request == number]) for number in (0, 1)]
        in_place(inner)
        living.add(LONGER, **OPTIONS)
        while not living.idle:
            events += living.step()
        own = by_request(events)
    want = Decoder(inner).generate(LONGER, **OPTIONS)
    assert ids_of(own[2]) == want.sequences[0].tolist()
    assert comparable(own[2][-1].stats) == comparable(want.stats[0])
    for number, prompt in enumerate((LONGER, OTHER)):
        assert own[number][-1].error is None
        # From the block on that was active: as if its prompt were all that had been committed.
        prompt = torch.cat((prompt, torch.tensor(committed[number], dtype=torch.int64)))
        left = OPTIONS | {"max_new_tokens": NEW - len(committed[number])}
        rest = Decoder(inner).generate(prompt, **left).sequences[0].tolist()
        assert ids_of(own[number]) == committed[number] + rest


def test_behind_writes_that_torch_does_not_see_a_reset_helps(golden_model):
    inner = copy.deepcopy(golden_model)
    decoder = Decoder(inner)
    with decoder.engine() as living:
        living.add(LONGER, **OPTIONS)
        while not living.idle:
            living.step()
        inner.model.layers[0].mlp.down_proj.weight.data.add_(0.05)
        living.reset()
        living.add(LONGER, **OPTIONS)
        events = []
        while not living.idle:
            events += living.step()
    want = Decoder(inner).generate(LONGER, **OPTIONS)
    assert ids_of(events) == want.sequences[0].tolist() and events[-1].stats == want.stats[0]


@pytest.fixture
def adapted(golden_model):
    """The golden model with two adapters that do something, named one and two."""
    torch.manual_seed(5)
    config = LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False, lora_alpha=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(golden_model), config, adapter_name="one")
        model.add_adapter("two", config)
    return model.eval()


def scaled(model):
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("one", 3.0)


SWITCHES = {
    "another adapter": lambda model: model.set_adapter("two"),
    "disabled": lambda model: model.base_model.disable_adapter_layers(),
    "merged": lambda model: model.merge_adapter(),
    "scaled": scaled,
    "both": lambda model: model.base_model.set_adapter(["one", "two"]),
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_a_switch_of_adapters_computes_anew(adapted, switch):
    decoder = Decoder(adapted)
    before = decoder.generate(LONGER, **OPTIONS)
    switch(adapted)
    got, again = (decoder.generate(LONGER, **OPTIONS) for _ in range(2))
    want = Decoder(adapted).generate(LONGER, **OPTIONS)
    assert results(got) == results(want) == results(again)
    assert (got.stats[0].prefill_forwards, again.stats[0].prefill_forwards) == (1, 0)
    if switch is not SWITCHES["merged"]:  # which computes the same in another way
        assert results(got) != results(before)


@pytest.mark.parametrize("aborted", [False, True])
def test_blocks_before_a_nan_are_not_given_to_others(golden_model, aborted):
    """A mask hides what stands behind a block from it, but 0 times NaN is NaN."""
    model, bad = copy.deepcopy(golden_model), 101
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = float("nan")
    wrong, clean = LONGER[: 3 * B].clone(), LONGER[: 2 * B + 1]
    wrong[2 * B] = bad
    want = one_token(Decoder(golden_model), clean)
    with Decoder(model).engine(max_batch=2) as engine:
        first = engine.add(wrong, **OPTIONS | {"temperature": 0.5})  # which looks until its bound
        assert not engine.step()
        if aborted:
            engine.abort(first)
        number = engine.add(clean, **OPTIONS | {"max_new_tokens": 1, "max_post_steps": 0})
        events = []
        while not engine.idle:
            events += engine.step()
    ends = {event.request: event for event in events if event.kind == "end"}
    assert ends[first].stats.finish_reason == ("aborted" if aborted else "error")
    assert ends[number].error is None
    ids = [i for event in events if event.request == number for i in event.ids]
    assert ids == want.sequences[0].tolist()
