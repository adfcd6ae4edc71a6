"""DiffusionGemma decoded by our steps, beside transformers' own `generate` on the same draws."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field

import pytest
import random_diffusion_gemma
import torch
import transformers
from random_diffusion_gemma import ours, theirs
from transformers import DiffusionGemmaGenerationConfig, EntropyBoundSamplerConfig

from fastedit import policies
from fastedit.integrations.diffusion_gemma import CACHE, generate
from fastedit.results import BadLogitsError

VOCAB, CANVAS, STEPS = 40, 8, 8
FIELDS = {
    "max_new_tokens": 3 * CANVAS,
    "max_denoising_steps": STEPS,
    "sampler_config": EntropyBoundSamplerConfig(3.0),
    "confidence_threshold": 0.3,
}
IDS = torch.randint(3, VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, :3] = 0
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
DOOR = "fastedit.integrations.diffusion_gemma"


@pytest.fixture(scope="module")
def model():
    return random_diffusion_gemma.model(VOCAB, CANVAS)


@dataclass
class Streamer:
    """What is put, as transformers' streamers are given it."""

    _takes_logits: bool = False
    puts: list[torch.Tensor] = field(default_factory=list)
    drafts: list[list[torch.Tensor]] = field(default_factory=list)  # of each canvas

    def put(self, value):
        assert value.device.type == "cpu" and "ended" not in vars(self)
        self.puts.append(value)
        self.drafts.append([])

    def put_draft(self, value=None, logits=None):
        assert (value is None) == self._takes_logits != (logits is None)
        self.drafts[-1].append(logits.clone() if value is None else value.clone())

    def end(self):
        self.ended = True


CASES = {
    "rows that settle": {},
    "two stable steps": {"stability_threshold": 2, "t_max": 0.6},
    "no stable step": {"stability_threshold": 0, "t_min": 0.1},
    "eos": {"eos_token_id": [5, 9], "pad_token_id": 0, "max_new_tokens": 5 * CANVAS},
    "eos without pad": {"eos_token_id": 5, "max_new_tokens": 5 * CANVAS - 1},
    "max length": {"max_length": 7 + CANVAS + 1, "eos_token_id": 5, "pad_token_id": 0},
    "as max length says": {"max_length": 7 + 2 * CANVAS, "max_new_tokens": 256},
    "bfloat16": {},
    "bfloat16, eos": {"eos_token_id": 5, "pad_token_id": 0, "max_new_tokens": 5 * CANVAS},
}


@pytest.fixture
def case_model(request, model):
    """In the precision that the case is of."""
    yield model.bfloat16() if "bfloat16" in request.node.name else model
    model.float()


@pytest.mark.parametrize("case", CASES)
def test_canvases_and_results_are_those_of_transformers(case_model, case):
    given, takes_logits = FIELDS | CASES[case], case in ("two stable steps", "bfloat16")
    streamers = [Streamer(takes_logits), Streamer(takes_logits)]
    out, recorded = theirs(case_model, INPUTS, given | {"streamer": streamers[0]})
    found, run = ours(case_model, INPUTS, given | {"streamer": streamers[1]}, recorded)
    assert torch.equal(found.sequences, out.sequences)
    assert torch.equal(found.tokens_per_forward, out.tokens_per_forward)
    assert found[CACHE].get_seq_length() == out[CACHE].get_seq_length()
    assert len(run.canvases) == len(recorded.canvases)
    for mine, other, live in zip(run.canvases, recorded.canvases, run.live, strict=True):
        for ids, expected, rows in zip(mine, other, live, strict=False):
            assert torch.equal(ids[rows], expected[rows])
    expected, got = streamers
    assert got.ended and all(map(torch.equal, got.puts, expected.puts))
    if "pad_token_id" in given:  # rows that have ended take no more steps
        return
    assert [len(steps) for steps in run.canvases] == [len(steps) for steps in recorded.canvases]
    for steps, other in zip(got.drafts, expected.drafts, strict=True):
        for draft, expected_draft in zip(steps, other, strict=True):
            torch.testing.assert_close(draft, expected_draft, rtol=1e-5, atol=1e-5)
    forwards = [rows.sum() for steps in run.live for rows in steps]
    assert len(set(map(int, forwards))) > 1  # some rows are done before others


def test_images_are_read_as_transformers_reads_them(model):
    patches = torch.rand(3, 9, 3 * 16**2, generator=torch.Generator().manual_seed(0))
    places = torch.cartesian_prod(torch.arange(3), torch.arange(3)).expand(3, 9, 2)
    ids = torch.cat(
        (IDS.clamp(max=VOCAB - 2), torch.full((3, 1), model.config.image_token_id)), dim=1
    )
    images = {
        "pixel_values": patches,
        "image_position_ids": places,
        "mm_token_type_ids": (ids == model.config.image_token_id).long(),
    }
    out, recorded = theirs(model, {"input_ids": ids}, FIELDS | images)
    found, _ = ours(model, {"input_ids": ids}, FIELDS | images, recorded)
    assert torch.equal(found.sequences, out.sequences)
    without, _ = ours(model, {"input_ids": ids}, FIELDS, recorded)
    assert not torch.equal(without.sequences, out.sequences)


def test_draws_follow_the_seed_row_by_row(model):
    given = FIELDS | {"return_dict_in_generate": False, "max_denoising_steps": 4}
    given |= {"max_new_tokens": 2 * CANVAS}
    whole = generate(model, **INPUTS, seed=[3, 4, 5], **given)
    for row, seed in enumerate((3, 4, 5)):
        ids = IDS[row : row + 1, MASK[row] == 1]
        alone = generate(model, ids, seed=seed, **given)
        assert torch.equal(alone[0, ids.shape[1] :], whole[row, 7:])
    same = generate(model, IDS[:1].repeat(2, 1), seed=3, **given)
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], whole[0])
    assert not torch.equal(generate(model, IDS[:1], seed=4, **given), same[:1])
    fresh = []
    for _ in range(2):
        torch.manual_seed(7)
        fresh += [generate(model, IDS[:1].repeat(2, 1), **given) for _ in range(2)]
    first, second, *again = fresh
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, second)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])


def test_a_cache_goes_on_where_it_ended(model):
    given = FIELDS | {"max_new_tokens": CANVAS, "seed": 3}
    out = generate(model, **INPUTS, **given)
    more = torch.cat((out.sequences, IDS[:, :3]), dim=1)
    mask = torch.nn.functional.pad(MASK, (0, more.shape[1] - 7), value=1)
    whole = generate(model, more, mask, **given)
    for name in ("cache", "past_key_values"):
        out = generate(model, **INPUTS, **given)
        continued = generate(model, more[:, 7:], mask, **{name: out[CACHE]}, **given)
        assert torch.equal(continued.sequences, whole.sequences[:, 7:])
    with pytest.raises(ValueError, match=r"attention_mask must be \[3, 29\], what the cache has"):
        generate(model, more[:, 7:], mask, cache=continued[CACHE], **given)


def test_what_the_policy_leaves_open_is_the_configs(model, monkeypatch):
    opened = []
    monkeypatch.setattr(
        policies,
        "open",
        lambda *args, open_=policies.open, **o: opened.append(args[0]) or open_(*args, **o),
    )
    saved = DiffusionGemmaGenerationConfig(max_denoising_steps=2, stability_threshold=3)
    monkeypatch.setattr(model, "generation_config", saved)
    config = DiffusionGemmaGenerationConfig(max_new_tokens=1, confidence_threshold=0.5)

    def decided(**given):
        generate(model, IDS, generation_config=config, **given)
        found = opened.pop()
        return found.bound, found.steps, found.stability, found.confidence

    assert decided() == (0.1, 2, 3, 0.5)
    assert decided(max_denoising_steps=1) == (0.1, 1, 3, 0.5)
    assert decided(policy="entropy_bound:bound=0.2,stability=0") == (0.2, 2, 0, 0.5)
    assert decided(policy=policies.EntropyBound(steps=3)) == (0.1, 3, 1, 0.005)
    assert generate(model, IDS, generation_config=config).sequences.shape == (3, 7 + CANVAS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "remask"}, "decodes by entropy_bound, not by policy remask"),
        ({"policy": "entropy_bound:steps=0"}, "steps must be an integer from 1"),
        ({"policy": "entropy_bound:steps=2"}, "max_denoising_steps=8 and policy=entropy_bound:st"),
        ({"t_min": 0.0, "t_max": 0.0}, "t_max must be more than 0"),
        ({"num_beams": 2}, "num_beams=2 cannot be honoured"),
        ({"cache_implementation": "static"}, "cache_implementation='static' cannot be honoured"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"max_new_tokens": None, "max_length": 7}, "max_length=7 more than the 7 tokens"),
        ({"seed": [1]}, "seed has 1 entries for 3 prompts"),
        ({"pad_token_id": VOCAB}, "pad_token_id=40 must be an id"),
        ({"attention_mask": MASK[:2]}, r"attention_mask must be \[3, 7\]"),
    ],
)
def test_what_cannot_be_honoured_is_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        generate(model, IDS, **FIELDS | given)


def test_other_models_and_logits_are_refused(model, golden_model, monkeypatch):
    with pytest.raises(TypeError, match="must be a DiffusionGemmaForBlockDiffusion, got LLaDA2"):
        generate(golden_model, IDS)
    monkeypatch.setattr(model, "final_logit_softcapping", float("nan"))
    with pytest.raises(BadLogitsError, match=r"request 0: bad logits .* at position 7"):
        generate(model, IDS, **FIELDS)


def test_a_transformers_without_the_model_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(DOOR)]:
        monkeypatch.delitem(sys.modules, name)
    lazy, missing = type(transformers), "DiffusionGemmaForBlockDiffusion"
    found = lazy.__getattr__

    def without(module, name):
        if name == missing:
            raise AttributeError(name)
        return found(module, name)

    monkeypatch.delattr(transformers, missing)
    monkeypatch.setattr(lazy, "__getattr__", without)
    with pytest.raises(ImportError, match=r"DiffusionGemmaForBlockDiffusion, which 5\.13 to 5\.24"):
        importlib.import_module(DOOR)
