"""The recipe of the embedded checkpoint: what is trained on what, the model and its optimisers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM
from recipes.tiny.dense_experts import DENSE
from recipes.tiny.muon import Muon
from recipes.tiny.objective import EVEN, LossWeights
from recipes.tiny.vocabulary import EOS, MASK


@dataclass(frozen=True)
class Source:
    """Rows per step of one task at one difficulty, up to step `until` (None: to the end)."""

    task: str
    rows: int
    options: dict[str, float] = field(default_factory=dict)
    until: int | None = None


def _sources() -> tuple[Source, ...]:
    # The sum of two digits modulo 10 shows in neither digit alone, so two-digit sums by themselves
    # stay on a plateau for thousands of steps. Sums of single digits, which can be approached
    # through their size, lead out of it.
    return (
        Source("chain_sum", 64, {"max_terms": 2, "max_digits": 1}, until=800),
        Source("chain_sum", 64, {"max_terms": 2, "mixed_share": 0.3}),
        Source("chain_sum", 40, {"min_terms": 3, "mixed_share": 0.3}),
        Source("leg_counting", 16),
    )


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, for how long; all of it in fp32."""

    sources: tuple[Source, ...] = field(default_factory=_sources)
    steps: int = 3000
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
    decay: float = 0.4
    balance_rate: float = 1e-3
    query_key_gain: float = 1.5
    rope_theta: float = 1000.0
    compile: bool = True

    def rate(self, step: int) -> float:
        """Learning-rate factor: warm-up, constant, then linear to 0."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, max(0.0, left))


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
