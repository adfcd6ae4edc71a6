"""The recipe of the embedded checkpoint at toy size: it learns, resumes exactly, and decodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("reasoning_gym")
pytest.importorskip("accelerate")

from safetensors.torch import load_file
from transformers import TrainerCallback

from fastedit import Decoder
from fastedit.training.runs.run import run
from recipes.tiny import recipe
from recipes.tiny.model import build_optimizer
from recipes.tiny.tokenizer import build_tokenizer

DATA = (
    "task:chain_sum,examples=60,max_terms=2,max_digits=1",
    "task:leg_counting,examples=20,raw=true",
)
SMALL = {"data": DATA, "batch_size": 4, "eval_examples": 0, "device": "cpu", "save_every": 3}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny") / "start"
    recipe.build_start(folder, DATA, seed=0, width=32)
    return str(folder)


@pytest.fixture
def first(start):
    """Runs the first stage on little data; returns the losses and the result."""

    def train(output: Path, steps: int, **options):
        settings = replace(
            recipe.first_stage(output, steps, seed=0), checkpoint=start, **SMALL, warmup=0.1
        )
        result = run(settings, optimizer=build_optimizer, **options)
        lines = (output / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines], result

    return train


class Stop(TrainerCallback):
    """As a run that is killed: its last checkpoint is that of step 3."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_repeats_an_uninterrupted_one(first, tmp_path):
    expected, whole = first(tmp_path / "whole", 6)
    with pytest.raises(KeyboardInterrupt):
        first(tmp_path / "parts", 6, callbacks=[Stop()])
    losses, parts = first(tmp_path / "parts", 6, resume=True)
    assert losses == expected and len(losses) == 6
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns(first, tmp_path):
    losses, _ = first(tmp_path, 40)
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]


def test_both_stages_end_in_a_checkpoint_that_decodes(tmp_path):
    one = replace(recipe.first_stage(tmp_path, 2, seed=0), **SMALL)
    two = replace(recipe.second_stage(tmp_path, seed=0), **SMALL, steps=2)
    folder = recipe.make(one, two, resume=False)
    assert folder == tmp_path / "edited" / "checkpoint"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llada2_moe" and config["architectures"] == ["LLaDA2MoeModelLM"]
    decoder = Decoder.from_pretrained(folder, device="cpu")
    assert all(p.dtype == torch.float32 for p in decoder.model.parameters())
    out = decoder.generate([[{"role": "user", "content": "1 + 2 ="}]], max_new_tokens=8)
    assert len(out.sequences[0]) >= 1
    with pytest.raises(FileExistsError, match="--resume"):
        recipe.make(one, two, resume=False)
    assert recipe.make(one, two, resume=True) == folder


def test_tokenizer_takes_any_text_and_splits_digits():
    tokenizer = build_tokenizer(["State the final answer: 1 + 2 =", "+1 = 501"])
    for text in ("zażółć 日本語 \t x²\r\n", "<|nonsense|>", "12 + 345 =", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer("345")["input_ids"]] == ["3", "4", "5"]
    assert tokenizer.mask_token_id != tokenizer.eos_token_id == tokenizer.pad_token_id
