"""DiffusionGemma decoded by our steps, beside transformers' own `generate` on the same draws."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field

import pytest
import tiny_diffusion_gemma
import torch
import transformers
from transformers import DiffusionGemmaGenerationConfig, EntropyBoundSamplerConfig

from fastedit import policies
from fastedit.integrations.diffusion_gemma import CACHE, generate
from fastedit.policies import entropy_bound

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
DOOR = "fastedit.integrations.diffusion_gemma"


@pytest.fixture(scope="module")
def model():
    return tiny_diffusion_gemma.model(VOCAB, CANVAS)


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


@dataclass
class Run:
    """Of each canvas: the ids of each forward, and the draws and the noise of each step."""

    canvases: list[list[torch.Tensor]] = field(default_factory=list)
    draws: list[list[torch.Tensor]] = field(default_factory=list)
    noise: list[list[torch.Tensor]] = field(default_factory=list)
    live: list[list[torch.Tensor]] = field(default_factory=list)  # rows that were not done yet

    def begin(self) -> None:
        for of_canvas in vars(self).values():
            of_canvas.append([])


def watch(monkeypatch, model, run: Run) -> None:
    forward = type(model).forward

    def watched(*args, **given):
        run.canvases[-1].append(given["decoder_input_ids"].clone())
        return forward(model, *args, **given)

    monkeypatch.setattr(model, "forward", watched)


def theirs(model, given):
    """transformers' own result, and everything that was drawn."""
    run, drawn, random = Run(), torch.multinomial, torch.randint
    noise: list[torch.Tensor] = []

    def multinomial(*args, **options):
        ids = drawn(*args, **options)
        run.draws[-1].append(ids.view(-1, CANVAS))
        return ids

    def randint(*args, **options):
        ids = random(*args, **options)
        if len(run.draws) == 0 or len(run.draws[-1]) < len(noise):  # no step since the last one
            run.begin()
            noise.clear()
        noise.append(ids)
        run.noise[-1].append(ids)
        return ids

    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch, "multinomial", multinomial)
        monkeypatch.setattr(torch, "randint", randint)
        watch(monkeypatch, model, run)
        return model.generate(IDS, attention_mask=MASK, **given), run


def ours(model, given, recorded: Run):
    """Our result from the same draws."""
    run, step_ = Run(), policies.step_

    def random_ids(view, forward, vocab, forbidden):
        number = int(forward.max())
        if number == 0:
            run.begin()
        assert vocab == VOCAB
        return recorded.noise[len(run.canvases) - 1][number]

    def step(state, logits):
        run.live[-1].append(~state.done)
        number = int(state.counts.forwards.max())
        step_(state, logits, draws=recorded.draws[len(run.canvases) - 1][number])

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(entropy_bound, "random_ids", random_ids)
        monkeypatch.setattr(policies, "step_", step)
        watch(monkeypatch, model, run)
        return generate(model, IDS, MASK, **given), run


CASES = {
    "rows that settle": {},
    "two stable steps": {"stability_threshold": 2, "t_max": 0.6},
    "no stable step": {"stability_threshold": 0, "t_min": 0.1},
    "eos": {"eos_token_id": [5, 9], "pad_token_id": 0, "max_new_tokens": 5 * CANVAS},
    "eos without pad": {"eos_token_id": 5, "max_new_tokens": 5 * CANVAS - 1},
    "max length": {"max_length": 7 + CANVAS + 1, "eos_token_id": 5, "pad_token_id": 0},
    "as max length says": {"max_length": 7 + 2 * CANVAS, "max_new_tokens": 256},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_canvases_and_results_are_those_of_transformers(model, case, dtype):
    given = FIELDS | CASES[case]
    model.to(dtype)
    try:
        out, recorded = theirs(model, given)
        found, run = ours(model, given, recorded)
    finally:
        model.to(torch.float32)
    assert torch.equal(found.sequences, out.sequences)
    assert torch.equal(found.tokens_per_forward, out.tokens_per_forward)
    assert found[CACHE].get_seq_length() == out[CACHE].get_seq_length()
    assert len(run.canvases) == len(recorded.canvases)
    for mine, other, live in zip(run.canvases, recorded.canvases, run.live, strict=True):
        if "pad_token_id" not in given:  # else rows that have ended take no more steps
            assert len(mine) == len(other)
        for ids, expected, rows in zip(mine, other, live, strict=False):
            assert torch.equal(ids[rows], expected[rows])


