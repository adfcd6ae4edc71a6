"""Models without weights: logits are a rule of the visible ids and the position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

Rule = Callable[[tuple[int, ...], int], Sequence[float]]


class ScriptedModel:
    """Calls `rule(ids visible to a position, position)` for its logits; keeps no cache.

    calls  input ids of every call
    """

    def __init__(self, vocab: int, rule: Rule, **config: Any) -> None:
        self.rule, self.vocab, self.calls = rule, vocab, []
        self.config = SimpleNamespace(vocab_size=vocab, **config)

    def __call__(self, *, input_ids, attention_mask, position_ids, past_key_values, use_cache):
        assert past_key_values is None and use_cache is False
        assert attention_mask.dtype == torch.bool and attention_mask.dim() == 4
        rows, positions = input_ids.tolist(), position_ids.expand_as(input_ids).tolist()
        self.calls.append(rows)
        mask = attention_mask[:, 0].expand(len(rows), -1, -1).int()
        assert (mask.diff(dim=-1) <= 0).all()  # every position sees a prefix
        logits = np.full((*input_ids.shape, self.vocab), np.nan, dtype=np.float32)
        for b, widths in enumerate(mask.sum(-1).tolist()):
            for q, width in enumerate(widths):
                if positions[b][q] < width:  # else a column of longer rows, which no one reads
                    logits[b, q] = self.rule(tuple(rows[b][:width]), positions[b][q])
        return SimpleNamespace(logits=torch.from_numpy(logits))


def one_hot(token: int, vocab: int, height: float = 20.0) -> np.ndarray:
    logits = np.zeros(vocab, dtype=np.float32)
    logits[token] = height
    return logits


def saying(tokens: Sequence[int], vocab: int, then: int = 0) -> Rule:
    """Position i holds tokens[i], and `then` behind them."""
    return lambda seen, i: one_hot(tokens[i] if i < len(tokens) else then, vocab)


def hashed(vocab: int, mask: int, seed: int = 0, loyalty: float = 2.0) -> Rule:
    """Pseudo-random logits from everything visible; a token that stands there is somewhat liked."""

    @cache
    def rule(seen: tuple[int, ...], position: int) -> np.ndarray:
        rng = np.random.default_rng([seed, position, *seen])
        logits = rng.normal(size=vocab) * 2.0
        if seen[position] != mask:
            logits[seen[position]] += loyalty
        return logits.astype(np.float32)

    return rule


class Recorder:
    """A real model whose calls are kept: (input ids, position ids, cached) each."""

    def __init__(self, model: Any) -> None:
        self.model, self.config, self.parameters = model, model.config, model.parameters
        self.calls: list[tuple[list, list, bool]] = []

    def __call__(self, **inputs: Any) -> Any:
        cached = inputs["past_key_values"] is not None
        assert inputs["use_cache"] == cached
        assert inputs["attention_mask"].dtype == torch.bool
        ids, positions = inputs["input_ids"], inputs["position_ids"]
        self.calls.append((ids.tolist(), positions.expand_as(ids).tolist(), cached))
        return self.model(**inputs)
