"""The embedded checkpoint, from nothing: tokenizer, data, training, export in the Hub's layout.

    python -m recipes.tiny --output DIR [--steps N] [--resume]

Everything random in a step follows from (seed, step), so a resumed run repeats an uninterrupted
one: `DIR/state.safetensors` holds weights, optimisers and the step, nothing else is needed. The
learning rate is constant until the last `decay` of the steps, so `--resume --steps M` may also
lengthen or shorten a run whose decay has not begun.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fastedit.locks import locked_folder
from fastedit.tasks import Task, get_task
from recipes.tiny.dense_experts import balance
from recipes.tiny.noise import corrupt
from recipes.tiny.objective import Objective, denoising_loss
from recipes.tiny.recipe import Recipe, build_model, build_optimizers
from recipes.tiny.rows import Rows, build_rows
from recipes.tiny.state import load_state, save_state
from recipes.tiny.vocabulary import SPECIAL, build_tokenizer

_WINDOW = 4096  # problems set aside per step and source; held-out ones are skipped inside it


class Trainer:
    """Tokenizer, model, optimisers and the step; `run` trains, `export` writes the checkpoint."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.step = recipe, 0
        self.tasks = [get_task(source.task, **source.options) for source in recipe.sources]
        self.tokenizer = build_tokenizer(_texts(self.tasks), recipe.vocab_size)
        torch.manual_seed(recipe.seed)
        self.model = build_model(recipe, self.tokenizer)
        self.optimizers = build_optimizers(recipe, self.model)
        self.trunk = torch.compile(self._trunk, dynamic=False) if recipe.compile else self._trunk
        special = set(self.tokenizer.convert_tokens_to_ids(SPECIAL))
        self.candidates = torch.tensor([i for i in range(len(self.tokenizer)) if i not in special])
        lookalikes = self.tokenizer.convert_tokens_to_ids(list("0123456789+-"))
        self.lookalikes = torch.tensor(sorted(lookalikes))

    def run(self, stop: int | None = None) -> Iterator[dict[str, float]]:
        """Train up to step `stop` (default: the recipe's end), yielding each step's metrics."""
        end = self.recipe.steps if stop is None else min(stop, self.recipe.steps)
        while self.step < end:
            yield self._train_step()

    def save(self, path: Path) -> None:
        facts = {"step": self.step, "recipe": asdict(self.recipe)}
        save_state(path, self.model, self.optimizers, facts)

    def load(self, path: Path) -> None:
        """Go on from a state. Raises ValueError when it is that of another recipe."""
        facts = load_state(path, self.model, self.optimizers)
        self.step, saved = facts["step"], facts["recipe"]
        current = json.loads(json.dumps(asdict(self.recipe)))
        other = [name for name in current if name != "steps" and current[name] != saved[name]]
        if other:
            raise ValueError(f"{path} was trained with another {', '.join(other)}")
        decaying = self.step > (1 - self.recipe.decay) * saved["steps"]
        if decaying and current["steps"] != saved["steps"]:
            raise ValueError(
                f"{path} is in the decay of a run of {saved['steps']} steps; go on with as many"
            )

    def export(self, folder: Path) -> None:
        """The checkpoint as the Hub has it: config, fp32 safetensors, tokenizer, generation."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def batch(self, number: int, step: int) -> tuple[Rows, torch.Generator]:
        """Clean rows of source `number` at `step`, and the generator that goes on to the noise."""
        recipe, task = self.recipe, self.tasks[number]
        generator = torch.Generator().manual_seed(
            (recipe.seed * 1_000_003 + step) * 101 + number  # one stream per (seed, step, source)
        )
        stream = task.training(seed=1 + recipe.seed * 101 + number, start=step * _WINDOW)
        problems = list(itertools.islice(stream, recipe.sources[number].rows))
        raw = torch.rand(len(problems), generator=generator) < recipe.raw_share
        block = self.model.config.block_size
        return build_rows(task, problems, raw.tolist(), self.tokenizer, block), generator

    def _trunk(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return self.model.model(
            input_ids=ids, attention_mask=mask, position_ids=positions
        ).last_hidden_state

    def _train_step(self) -> dict[str, float]:
        recipe, began = self.recipe, time.perf_counter()
        active = [
            number
            for number, source in enumerate(recipe.sources)
            if source.until is None or self.step < source.until
        ]
        batches = [self.batch(number, self.step) for number in active]
        total = sum(int(rows.response.sum()) for rows, _ in batches)
        loss, hits, counts, tokens = 0.0, torch.zeros(3), torch.zeros(3), 0
        for rows, generator in batches:
            part = self._loss(rows, generator)
            (part.loss / total).backward()
            balance(self.model, recipe.balance_rate * recipe.rate(self.step))
            loss += float(part.loss.detach()) / total
            hits, counts, tokens = (
                hits + part.hits,
                counts + part.counts,
                tokens + rows.clean.numel(),
            )
        self._update(recipe.rate(self.step))
        self.step += 1
        accuracy = (hits / counts.clamp(min=1)).tolist()
        return {
            "step": self.step,
            "loss": loss,
            "masked_accuracy": accuracy[0],
            "edit_accuracy": accuracy[1],
            "keep_accuracy": accuracy[2],
            "tokens_per_second": tokens / (time.perf_counter() - began),
        }

    def _loss(self, rows: Rows, generator: torch.Generator) -> Objective:
        recipe, config = self.recipe, self.model.config
        noisy = corrupt(
            rows.clean,
            rows.response,
            block_size=config.block_size,
            mask_token_id=self.tokenizer.mask_token_id,
            full_share=recipe.full_share,
            edit_rate=recipe.edit_rate,
            candidates=self.candidates,
            lookalikes=self.lookalikes,
            lookalike_share=recipe.lookalike_share,
            generator=generator,
        )
        return denoising_loss(
            self.trunk,
            self.model.lm_head,
            noisy,
            rows.clean,
            rows.response,
            block_size=config.block_size,
            weights=recipe.weights,
        )

    def _update(self, factor: float) -> None:
        rates = (self.recipe.muon_lr, self.recipe.adam_lr)
        adam = self.optimizers[1].param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(adam, 1.0)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()


def _texts(tasks: list[Task], problems: int = 2000) -> Iterator[str]:
    for task in tasks:
        for problem in itertools.islice(task.training(), problems):
            yield problem.question
            yield problem.solution


def train(recipe: Recipe, output: Path, resume: bool = False, save_seconds: float = 180) -> None:
    """Train and export to `output`; progress in `output/metrics.jsonl`, state beside it.

    Raises FileExistsError when there is a state and `resume` is off.
    """
    output.mkdir(parents=True, exist_ok=True)
    state, log = output / "state.safetensors", output / "metrics.jsonl"
    trainer = Trainer(recipe)
    if state.exists() and not resume:
        raise FileExistsError(f"{state} is the state of an earlier run: pass --resume or remove it")
    if state.exists():
        trainer.load(state)
    lines = log.read_text().splitlines() if log.exists() and resume else []
    kept = [line for line in lines if json.loads(line)["step"] <= trainer.step]
    log.write_text("".join(line + "\n" for line in kept))
    saved, seen = time.monotonic(), []
    for metrics in trainer.run():
        seen.append(metrics)
        if trainer.step % 50 == 0:
            mean = {key: sum(m[key] for m in seen) / len(seen) for key in metrics}
            with log.open("a") as file:
                file.write(json.dumps({**mean, "step": trainer.step}) + "\n")
            seen.clear()
        if time.monotonic() - saved > save_seconds:
            trainer.save(state)
            trainer.export(output / "checkpoint")
            saved = time.monotonic()
    trainer.save(state)
    trainer.export(output / "checkpoint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/state.safetensors")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    with locked_folder(options.output):
        train(Recipe(steps=options.steps, seed=options.seed), options.output, options.resume)
