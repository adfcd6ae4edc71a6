"""A small DiffusionGemma of random weights, and both loops around it on the same draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)

from fastedit import policies
from fastedit.integrations.diffusion_gemma import generate
from fastedit.policies import entropy_bound


def model(vocab: int, canvas: int, hidden: int = 32) -> Any:
    """Two layers, one with a sliding window.

    The embeddings are large beside the other weights, so that some canvases settle after a few
    steps and others do not.
    """
    size = {"hidden_size": hidden, "intermediate_size": hidden, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    text = DiffusionGemmaTextConfig(
        **size,
        vocab_size=vocab,
        num_hidden_layers=2,
        **heads,
        num_global_key_value_heads=1,
        global_head_dim=16,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    images = Gemma4VisionConfig(**size, **heads, num_hidden_layers=1)
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(
        text_config=text,
        vision_config=images,
        image_token_id=vocab - 1,
        canvas_length=canvas,
        initializer_range=0.1,
    )
    made = DiffusionGemmaForBlockDiffusion(config).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(4.0)  # tied to all embeddings
    return made


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


def watch(monkeypatch: pytest.MonkeyPatch, model: Any, run: Run) -> None:
    forward = type(model).forward

    def watched(*args, **given):
        run.canvases[-1].append(given["decoder_input_ids"].clone())
        return forward(model, *args, **given)

    monkeypatch.setattr(model, "forward", watched)


def theirs(model: Any, inputs: dict[str, Any], given: dict[str, Any]) -> tuple[Any, Run]:
    """transformers' own result, and everything that was drawn."""
    run, drawn, random = Run(), torch.multinomial, torch.randint

    def multinomial(*args, **options):
        ids = drawn(*args, **options)
        run.draws[-1].append(ids.view(-1, model.config.canvas_length))
        return ids

    def randint(*args, **options):
        ids = random(*args, **options)
        if not run.noise or len(run.draws[-1]) < len(run.noise[-1]):  # no step since the last one
            run.begin()
        run.noise[-1].append(ids)
        return ids

    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch, "multinomial", multinomial)
        monkeypatch.setattr(torch, "randint", randint)
        watch(monkeypatch, model, run)
        return model.generate(**inputs, **given), run


def ours(
    model: Any, inputs: dict[str, Any], given: dict[str, Any], recorded: Run
) -> tuple[Any, Run]:
    """Our result from the same draws."""
    run, step_ = Run(), policies.step_

    def random_ids(view, forward, vocab, forbidden):
        number = int(forward.max())
        if number == 0:
            run.begin()
        assert vocab == model.config.text_config.vocab_size
        return recorded.noise[len(run.canvases) - 1][number]

    def step(state, logits):
        run.live[-1].append(~state.done)
        number = int(state.counts.forwards.max())
        step_(state, logits, draws=recorded.draws[len(run.canvases) - 1][number])

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(entropy_bound, "random_ids", random_ids)
        monkeypatch.setattr(policies, "step_", step)
        watch(monkeypatch, model, run)
        return generate(model, **inputs, **given), run
