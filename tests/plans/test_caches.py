"""Fast-dLLM's approximate caches: what its released loops keep, row by row, and nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch
from golden_families import loaded
from transformers.cache_utils import Cache, DynamicCache

from fastedit import DecodeConfig, Decoder
from fastedit.memory.capacity import Room, capacity
from fastedit.models import Family
from fastedit.plans import approximate as module
from fastedit.policies import Confidence, LowConfidence

APPROXIMATE = ("prefix", "dual")
LENGTH = 6
GIVEN = {"block_length": LENGTH, "max_new_tokens": 3 * LENGTH, "eos_token_id": [], "seed": 1}
RULES = {
    "threshold": Confidence(threshold=0.4),
    "factor": Confidence(rule="factor", factor=1.5),
    "schedule": Confidence(rule="schedule", steps=4),
}


def prompt(length: int) -> torch.Tensor:
    return torch.randint(150, (length,), generator=torch.Generator().manual_seed(length))


PROMPTS = [prompt(length) for length in (5, 1, 17, 9, 30)]


class Replaced(Cache):
    """The keys and values of a whole canvas, those of some positions anew: of one block with a dual
    cache, of all from its start on with a prefix cache."""

    def __init__(self, whole: DynamicCache, start: int, end: int) -> None:
        super().__init__(layers=[])
        self.kept = [(layer.keys.clone(), layer.values.clone()) for layer in whole.layers]
        self.block = slice(start, end)

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        keys, values = self.kept[layer_idx]
        keys[:, :, self.block], values[:, :, self.block] = key_states, value_states
        return keys, values


@torch.no_grad()
def released(model, prompt, cache, choose, shift=0, mask=191):
    """`generate_with_prefix_cache` and `generate_with_dual_cache` of Fast-dLLM, for one prompt.

    choose: (confidences of the masks, masks at the block's start, forward in the block) -> how many
    are filled, the best ones. With a shift, the row before the block is computed with it.
    """
    ids = torch.cat((prompt, torch.full((GIVEN["max_new_tokens"],), mask)))
    total, forwards = len(ids), 0
    for start in range(len(prompt), total, LENGTH):
        first, end = max(start - shift, 0), start + LENGTH
        kept, forward = DynamicCache(), 0
        began = int((ids[start:end] == mask).sum())
        while (ids[start:end] == mask).any():
            begin, stop, past = 0, total, kept
            if forward:
                begin, stop = first, end if cache == "dual" else total
                past = Replaced(kept, begin, stop)
            logits = model(
                input_ids=ids[None, begin:stop],
                attention_mask=torch.ones(1, 1, stop - begin, total, dtype=torch.bool),
                position_ids=torch.arange(begin, stop)[None],
                past_key_values=past,
                use_cache=True,
            ).logits[0]
            logits = logits[start - shift - begin : end - shift - begin].double()
            logits[:, mask] = -torch.inf
            prob, token = logits.softmax(-1).max(-1)
            masked = ids[start:end] == mask
            order = prob.masked_fill(~masked, -1).argsort(descending=True, stable=True)
            count = choose(prob[order[: int(masked.sum())]].tolist(), began, forward)
            ids[start + order[:count]] = token[order[:count]]
            forwards, forward = forwards + 1, forward + 1
    return ids[len(prompt) :].tolist(), forwards


def by_threshold(probs, began, forward):
    return max(1, sum(p >= 0.4 for p in probs))


def by_factor(probs, began, forward):
    for j, p in enumerate(probs[1:], 2):
        if p < 1 - 1.5 / (j + 1):
            return j - 1
    return len(probs)


def by_schedule(probs, began, forward):
    return began // 4 + (forward < began % 4)


CHOICES = {"threshold": by_threshold, "factor": by_factor, "schedule": by_schedule}


def decoder_of(name="llada", **options) -> Decoder:
    config = DecodeConfig(**GIVEN | {"policy": RULES["threshold"]} | options)
    return Decoder(loaded(name).model, config=config)


def results(out):
    return [
        (ids.tolist(), stats.forwards) for ids, stats in zip(out.sequences, out.stats, strict=True)
    ]


@pytest.mark.parametrize("cache", APPROXIMATE)
@pytest.mark.parametrize(
    ("name", "rule"),
    [*(("llada", rule) for rule in RULES), ("llada_moe", "threshold"), ("dream", "factor")],
)
def test_results_are_those_of_the_released_loops(name, rule, cache):
    """Also among others: shorter and longer ones, at other forwards of their blocks."""
    model = loaded(name).model
    args = (cache, CHOICES[rule], loaded(name).family.shift, model.config.mask_token_id)
    want = [released(model, prompt, *args) for prompt in PROMPTS]
    decoder = decoder_of(name, cache=cache, policy=RULES[rule])
    for prompt, one in zip(PROMPTS[:2], want, strict=False):
        assert results(decoder.generate(prompt)) == [one]
    assert results(decoder.generate(PROMPTS)) == want
    assert results(decoder.generate(PROMPTS[::-1], max_batch=2)) == want[::-1]


def test_they_are_approximations_and_say_so():
    """On random weights few tokens are those of the exact decoding."""
    sequences = {}
    for cache in ("exact", "none", *APPROXIMATE):
        out = decoder_of(cache=cache).generate(PROMPTS)
        sequences[cache] = [ids.tolist() for ids in out.sequences]
        approximate = cache in APPROXIMATE
        assert [stats.approximate for stats in out.stats] == [approximate] * len(PROMPTS)
        assert out.stats[0].as_dict()["approximate"] is approximate
    assert sequences["exact"] == sequences["none"]
    assert sequences["prefix"] != sequences["exact"] != sequences["dual"] != sequences["prefix"]


@pytest.mark.parametrize("cache", APPROXIMATE)
def test_a_later_forward_computes_what_its_cache_does_not_keep(cache):
    """The first forward of each block takes the whole canvas."""
    model, widths = loaded("llada").model, []
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda _, given: widths.append(given[0].shape[1])
    )
    try:
        decoder_of(cache=cache, policy=LowConfidence(steps=2, threshold=1)).generate(PROMPTS[0])
    finally:
        hook.remove()
    later = (3 * LENGTH, 2 * LENGTH, LENGTH) if cache == "prefix" else (LENGTH,) * 3
    assert widths == [width for one in later for width in (5 + 3 * LENGTH, one)]


def test_lanes_of_all_caches_share_a_pool():
    """Requests of several lanes, lengths and rules in one call, and on the engine as they come."""
    configs = [
        DecodeConfig(**GIVEN | {"cache": cache, "max_new_tokens": new, "policy": RULES[rule]})
        for cache, new, rule in (
            ("dual", 7, "threshold"),
            ("exact", 18, "factor"),
            ("prefix", 13, "threshold"),
            ("dual", 30, "factor"),
            ("dual", 18, "threshold"),
            ("prefix", 2, "threshold"),
        )
    ]
    prompts = [*PROMPTS, prompt(3)]
    pairs = list(zip(prompts, configs, strict=True))
    want = [results(decoder_of().generate(p, config=config))[0] for p, config in pairs]
    assert results(decoder_of().generate(prompts, config=configs)) == want
    assert results(decoder_of().generate(prompts, config=configs, max_batch=3)) == want
    got = {}
    with decoder_of().engine(max_batch=4) as engine:
        numbers = []
        for p, config in pairs:
            numbers.append(engine.add(p, config=config))
            events = engine.step()
            for event in events:
                got.setdefault(event.request, []).extend(event.ids)
        while not engine.idle:
            for event in engine.step():
                got.setdefault(event.request, []).extend(event.ids)
    assert [got[number] for number in numbers] == [ids for ids, _ in want]


@pytest.mark.parametrize("cache", APPROXIMATE)
def test_streams_drafts_and_aborted_neighbours(cache):
    decoder = decoder_of(cache=cache)
    want = results(decoder.generate(PROMPTS))
    events = list(decoder.stream(PROMPTS[2], drafts=True))
    assert [i for event in events if event.kind == "commit" for i in event.ids] == want[2][0]
    assert events[-1].stats.approximate
    assert sum(event.kind == "draft" for event in events) == want[2][1]
    with decoder.engine() as engine:
        numbers = [engine.add(prompt) for prompt in PROMPTS]
        got = {number: [] for number in numbers}
        for step in itertools.count():
            for event in engine.step():
                got[event.request] += event.ids
            if step == 1:
                engine.abort(numbers[1])
                engine.abort(numbers[4])
            if engine.idle:
                break
    assert [got[numbers[i]] for i in (0, 2, 3)] == [want[i][0] for i in (0, 2, 3)]


@pytest.mark.parametrize(
    ("name", "cache"), [("llada", "dual"), ("dream", "prefix"), ("dream", "dual")]
)
def test_drafts_and_editing_rules(name, cache):
    """Drafts without a prompt too, whose first row has none before it."""
    mask = loaded(name).model.config.mask_token_id
    drafts = [torch.tensor([4, mask, 9, mask, mask, 3, 8, mask, 1, 2]), prompt(16), prompt(8)]
    prompts = [PROMPTS[0], torch.empty(0, dtype=torch.int64), PROMPTS[3]]
    decoder = decoder_of(name, cache=cache, policy="joint_threshold:threshold=.3")
    alone = [
        results(decoder.generate(prompt, draft=[draft]))[0]
        for prompt, draft in zip(prompts, drafts, strict=True)
    ]
    assert results(decoder.generate(prompts, draft=drafts)) == alone
    kept = decoder.generate(prompts, draft=drafts, keep_draft=True).sequences
    for ids, draft in zip(kept, drafts, strict=True):
        fixed = draft != mask
        assert ids[: len(draft)][fixed].equal(draft[fixed]) and mask not in ids


def test_out_of_memory_half_as_many_go_on():
    class Small:
        """Has no room for more than two rows."""

        def __init__(self, model):
            self.model, self.config, self.parameters = model, model.config, model.parameters
            self.get_output_embeddings = model.get_output_embeddings

        def __call__(self, *, input_ids, past_key_values, **inputs):
            if len(input_ids) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.model(input_ids=input_ids, past_key_values=past_key_values, **inputs)

    for cache in APPROXIMATE:
        decoder = decoder_of(cache=cache)
        want = results(decoder.generate(PROMPTS))
        small = Decoder(Small(decoder.model), config=decoder.config, family=decoder.family)
        assert results(small.generate(PROMPTS)) == want


@pytest.mark.parametrize("cache", APPROXIMATE)
def test_refused_for_a_model_of_blocks(cache):
    with pytest.raises(ValueError, match=f'cache="{cache}" is an approximation.*cache="exact"'):
        loaded("sdar").generate(PROMPTS[0], cache=cache)


def test_other_caches_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'exact', 'none', 'prefix', 'dual'; got 'suffix'"):
        DecodeConfig(cache="suffix")


def test_memory_counts_keys_and_values_beside_a_whole_forward(monkeypatch):
    monkeypatch.setattr("fastedit.memory.capacity.free_memory", lambda device: 10**9)
    family, model, card = Family(attention="full"), loaded("llada").model, torch.device("cuda")
    had = {
        cache: capacity(Room.of("auto", [DecodeConfig(cache=cache)], family), model, card)
        for cache in ("exact", *APPROXIMATE)
    }
    sizes = model.config  # fp32: four bytes
    heads = sizes.num_key_value_heads * sizes.num_hidden_layers + sizes.num_attention_heads
    kept = 2 * heads * (sizes.hidden_size // sizes.num_attention_heads) * 4
    for cache in APPROXIMATE:
        assert had[cache].per_position == had["exact"].per_position + kept


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_no_two_rows_are_stored_in_one_place_that_is_seen(cache, monkeypatch):
    """Shorter requests stand beside longer ones, and shadows behind both."""
    seen = []

    class Watched(module.Rows):
        def __init__(self, pool, offsets, positions, *args, **options):
            seen.append((options["sizes"] - 1, positions))
            super().__init__(pool, offsets, positions, *args, **options)

    monkeypatch.setattr(module, "Rows", Watched)
    prompts = [torch.arange(1, 10), torch.tensor([5]), torch.arange(1, 12)]
    given = [{"max_new_tokens": new, "block_length": 4} for new in (8, 5, 8)]
    config = DecodeConfig(policy="wino", cache=cache, eos_token_id=[])
    loaded("llada").generate(prompts, config=[config.replace(**each) for each in given])
    assert seen
    for spare, positions in seen:
        for last, row in zip(spare.tolist(), positions.tolist(), strict=True):
            where = [position for position in row if position != last]
            assert len(set(where)) == len(where)
