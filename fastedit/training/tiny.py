"""The embedded checkpoint, from nothing: tokenizer, data, training, export in the Hub's layout.

    python -m fastedit.training.tiny --output DIR [--steps N] [--resume]

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from fastedit.tasks import Task, get_task

from .dense_experts import DENSE, balance
from .muon import Muon
from .noise import corrupt
from .objective import EVEN, LossWeights, Objective, denoising_loss
from .rows import Rows, build_rows
from .state import load_state, save_state
from .vocabulary import EOS, MASK, SPECIAL, build_tokenizer

_WINDOW = 4096  # problems set aside per step and source; held-out ones are skipped inside it


@dataclass(frozen=True)
class Source:
    """Rows per step of one task at one difficulty, up to step `until` (None: to the end)."""

    task: str
    rows: int
    options: dict[str, int] = field(default_factory=dict)
    until: int | None = None


def _sources() -> tuple[Source, ...]:
    # The sum of two digits modulo 10 shows in neither digit alone, so two-digit sums by themselves
    # stay on a plateau for thousands of steps. Sums of single digits, which can be approached
    # through their size, lead out of it.
    return (
        Source("chain_sum", 96, {"max_terms": 2, "max_digits": 1}, until=1000),
        Source("chain_sum", 64, {"max_terms": 2}),
        Source("chain_sum", 40, {"min_terms": 3}),
        Source("leg_counting", 16),
    )


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, for how long. `autocast`: products in bf16, weights in fp32."""

    sources: tuple[Source, ...] = field(default_factory=_sources)
    steps: int = 7000
    seed: int = 0
    vocab_size: int = 640
    hidden_size: int = 160
    layers: int = 4
    experts: int = 4
    raw_share: float = 0.2
    full_share: float = 0.1
    edit_rate: float = 0.1
    lookalike_share: float = 0.5
    weights: LossWeights = EVEN
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    warmup: int = 100
    decay: float = 0.3
    balance_rate: float = 1e-3
    query_key_gain: float = 1.5
    rope_theta: float = 1000.0
    autocast: bool = True
    compile: bool = True

    def rate(self, step: int) -> float:
        """Learning-rate factor: warm-up, constant, then linear to 0."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, max(0.0, left))


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
        self.step = load_state(path, self.model, self.optimizers)["step"]

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
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
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


def build_model(recipe: Recipe, tokenizer: Any) -> LLaDA2MoeModelLM:
    """A small LLaDA2.x in fp32, with residual branches that start at zero."""
    width = recipe.hidden_size
    config = LLaDA2MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        moe_intermediate_size=width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=recipe.experts,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        rope_theta=recipe.rope_theta,
        max_position_embeddings=1024,
        initializer_range=width**-0.5,
        eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
        pad_token_id=tokenizer.convert_tokens_to_ids(EOS),
        mask_token_id=tokenizer.convert_tokens_to_ids(MASK),
    )
    model = LLaDA2MoeModelLM(config)
    model.set_attn_implementation("eager")  # SDPA's backward on CPU is several times slower
    model.set_experts_implementation(DENSE)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.02)
        model.model.word_embeddings.weight.normal_(std=0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(("query_layernorm.weight", "key_layernorm.weight")):
                parameter.fill_(recipe.query_key_gain)
            elif "dense.weight" in name or "down_proj" in name:
                parameter.zero_()
    return model.train()


def build_optimizers(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers; AdamW for embedding, head, router and norms."""

    def inner(name: str, parameter: Tensor) -> bool:
        ends = ("word_embeddings.weight", "lm_head.weight", "mlp.gate.weight")
        return parameter.ndim >= 2 and not name.endswith(ends)

    named = list(model.named_parameters())
    return [
        Muon([p for name, p in named if inner(name, p)], lr=recipe.muon_lr),
        torch.optim.AdamW(
            [p for name, p in named if not inner(name, p)],
            lr=recipe.adam_lr,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        ),
    ]


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
    train(Recipe(steps=options.steps, seed=options.seed), options.output, options.resume)


if __name__ == "__main__":
    main()
