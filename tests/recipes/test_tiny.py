"""The recipe of the embedded checkpoint at toy size: rows, tokenizer, resume, export."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("reasoning_gym")

from recipes.tiny.recipe import Recipe, Source
from recipes.tiny.rows import build_rows
from recipes.tiny.train import Trainer, train

TOY = Recipe(
    sources=(Source("chain_sum", 4), Source("leg_counting", 2)),
    steps=6,
    hidden_size=32,
    layers=2,
    experts=4,
    warmup=2,
    compile=False,
)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(TOY)


def losses(trainer: Trainer, stop: int | None = None) -> list[float]:
    return [metrics["loss"] for metrics in trainer.run(stop)]


def test_resumed_training_repeats_an_uninterrupted_run(tmp_path):
    whole = Trainer(TOY)
    expected = losses(whole)
    first = Trainer(TOY)
    begun = losses(first, stop=3)
    first.save(tmp_path / "state.safetensors")
    second = Trainer(TOY)
    second.load(tmp_path / "state.safetensors")
    assert begun + losses(second) == expected and len(expected) == 6
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert any(b.any() for n, b in whole.model.named_buffers() if n.endswith("expert_bias"))


def test_train_writes_a_checkpoint_that_loads_and_decodes(tmp_path):
    from fastedit import Decoder

    train(replace(TOY, sources=(Source("chain_sum", 1),), steps=50), tmp_path)
    (line,) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] == 50 and line["loss"] > 0
    folder = tmp_path / "checkpoint"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llada2_moe" and config["architectures"] == ["LLaDA2MoeModelLM"]
    assert (folder / "generation_config.json").exists()
    decoder = Decoder.from_pretrained(str(folder), device="cpu")
    assert all(p.dtype == torch.float32 for p in decoder.model.parameters())
    out = decoder.generate([[{"role": "user", "content": "1 + 2 ="}]], max_new_tokens=8)
    assert len(out.sequences[0]) >= 1
    with pytest.raises(FileExistsError, match="--resume"):
        train(TOY, tmp_path)


def test_rows_hold_prompt_then_solution_then_eos(trainer):
    tokenizer, task = trainer.tokenizer, trainer.tasks[0]
    problems = list(itertools.islice(task.training(seed=2), 40))
    raw = [i % 2 == 0 for i in range(40)]
    rows = build_rows(task, problems, raw, tokenizer, 32)
    assert rows.clean.shape[1] in (32, 64)
    for problem, bare, ids, response in zip(problems, raw, *rows, strict=True):
        first = int(response.nonzero()[0])
        text = tokenizer.decode(ids[:first])
        chat = f"<role>HUMAN</role>{problem.question}<|role_end|><role>ASSISTANT</role>"
        assert text == (problem.question if bare else chat)
        tail = ids[first:].tolist()
        end = tail.index(tokenizer.eos_token_id)
        assert tokenizer.decode(tail[:end]) == problem.solution
        assert set(tail[end:]) == {tokenizer.eos_token_id}
        assert response[first:].nonzero().max() + 1 + first == (first + end) // 32 * 32 + 32


def test_tokenizer_takes_any_text_and_splits_digits(trainer):
    tokenizer = trainer.tokenizer
    for text in ("zażółć 日本語 \t x²\r\n", "<|nonsense|>", "12 + 345 =", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer("345")["input_ids"]] == ["3", "4", "5"]
    assert tokenizer.mask_token_id != tokenizer.eos_token_id == tokenizer.pad_token_id
    assert max(trainer.candidates) < len(tokenizer) and tokenizer.mask_token_id not in (
        trainer.candidates
    )


def test_rate_warms_up_stays_and_decays():
    recipe = Recipe(steps=1000, warmup=100, decay=0.3)
    assert recipe.rate(0) == 0.01 and recipe.rate(99) == recipe.rate(699) == 1.0
    assert recipe.rate(850) == pytest.approx(0.5) and recipe.rate(1000) == 0
