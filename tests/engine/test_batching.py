"""A request's result is its own: the same alone, in any batch, in any order, however padded."""

import pytest
import torch
from cases import results
from fakes import ScriptedModel, hashed
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import Decoder

V, MASK, EOS = 9, 8, 7
SMALL = {
    "mask_token_id": MASK,
    "eos_token_id": EOS,
    "use_cache": False,
    "block_length": 3,
    "max_new_tokens": 7,
    "max_post_steps": 2,
    "threshold": 0.5,
    "editing_threshold": 0.3,
}
GOLDEN = {
    "mask_token_id": 127,
    "eos_token_id": 6,
    "block_length": 8,
    "max_new_tokens": 20,
    "max_post_steps": 2,
    "threshold": 0.6,
    "editing_threshold": 0.3,
}


def alone(decoder, prompts, **options):
    return [results(decoder.generate(prompt, **options))[0] for prompt in prompts]


@pytest.fixture(scope="module")
def golden_prompts():
    generator = torch.Generator().manual_seed(3)
    lengths = (17, 1, 40, 8, 3, 24)
    return [torch.randint(7, 120, (n,), generator=generator) for n in lengths]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=10), min_size=1, max_size=5),
    max_batch=st.integers(1, 6),
    temperature=st.sampled_from([0.0, 1.0]),
)
@pytest.mark.filterwarnings("ignore:temperature")
def test_every_row_equals_itself_alone(seed, prompts, max_batch, temperature):
    options = SMALL | {"temperature": temperature, "seed": 5}
    decoder = Decoder(ScriptedModel(V, hashed(V, MASK, seed)))
    tensors = [torch.tensor(prompt) for prompt in prompts]
    together = results(decoder.generate(tensors, max_batch=max_batch, **options))
    backwards = results(decoder.generate(tensors[::-1], max_batch=max_batch, **options))
    assert together == alone(decoder, tensors, **options)
    assert backwards == together[::-1]


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_real_model_gives_every_row_its_own_result(golden_model, golden_prompts, use_cache):
    """Only two requests decode at a time, so the others wait and take over used slots."""
    decoder = Decoder(golden_model)
    options = GOLDEN | {"use_cache": use_cache, "seed": 0}
    want = alone(decoder, golden_prompts, **options)
    assert results(decoder.generate(golden_prompts, max_batch=2, **options)) == want
    assert results(decoder.generate(golden_prompts[::-1], max_batch=2, **options)) == want[::-1]


def test_all_requests_at_once_equal_the_few_slots(golden_model, golden_prompts):
    decoder = Decoder(golden_model)
    options = GOLDEN | {"seed": 0}
    want = alone(decoder, golden_prompts, **options)
    assert results(decoder.generate(golden_prompts, **options)) == want
    doubled = golden_prompts * 2
    assert results(decoder.generate(doubled, **options)) == want * 2


@pytest.mark.parametrize("pad", [0, EOS, MASK, -1, 10**6])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (4, 0), (0, 4), (1, 3)])
def test_padding_does_not_matter(pad, left, right):
    decoder = Decoder(ScriptedModel(V, hashed(V, MASK, 1)))
    prompts = [torch.tensor(p) for p in ([1, 2, 3, 4], [5], [6, 0])]
    width = 4 + left + right
    ids, mask = torch.full((3, width), pad), torch.zeros(3, width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        start = left + (4 - len(prompt) if left else 0)  # against the right or the left edge
        ids[row, start : start + len(prompt)] = prompt
        mask[row, start : start + len(prompt)] = 1
    want = alone(decoder, prompts, seed=0, **SMALL)
    for kind in (torch.int64, torch.bool, torch.float32):
        assert results(decoder.generate(ids, mask.to(kind), seed=0, **SMALL)) == want


def test_finished_rows_cost_the_others_nothing():
    """Rows leave when they are done: later calls hold only the rows that still decode."""
    model = ScriptedModel(V, hashed(V, MASK, 2))
    options = SMALL | {"eos_token_id": []}
    prompts = [torch.tensor([1] * n) for n in (1, 2, 3)]
    out = Decoder(model).generate(prompts, max_batch=2, **options)
    assert sum(len(call) for call in model.calls) == sum(s.forwards for s in out.stats)
    assert max(len(call) for call in model.calls) == 2
