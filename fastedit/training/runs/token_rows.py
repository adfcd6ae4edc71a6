"""Rows of embedding and head that train beside LoRA: of tokens that no text has taught."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def tables(model: Any) -> list[str]:
    """Names of the modules with a row per token: the embedding, and the head where it has rows of
    its own."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    tied = last is None or last.weight is first.weight
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)] for module in ([first] if tied else [first, last])]


def narrow(model: nn.Module) -> None:
    """Let the trainable tokens of a `PeftModel` cost what they are: a few rows.

    peft writes them into a copy of the table in every forward, and its gradient has the size of the
    table. The result is the same, but for rounding, and so is what is saved.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    class Rows(TrainableTokensLayer):
        def forward_adapters(self, x: Tensor, active_adapters: Any, *args: Any, **kwargs: Any):
            if self.disable_adapters or not active_adapters or self.merged:
                return super().forward_adapters(x, active_adapters, *args, **kwargs)
            result = self.base_layer(x, *args, **kwargs)
            for name in active_adapters:
                ids = torch.tensor(self.token_indices[name], device=x.device)
                rows = self.trainable_tokens_delta[name].to(self.base_layer.weight.dtype)
                result = (_embedded if x.dtype == torch.int64 else _scored)(result, x, ids, rows)
            return result

    for module in model.modules():
        if type(module) is TrainableTokensLayer:
            module.__class__ = Rows


def _embedded(result: Tensor, x: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Embeddings [..., H] of tokens `x` [...], with `rows` [n, H] where a token is one of `ids`."""
    is_it = x[..., None] == ids
    return torch.where(is_it.any(-1, keepdim=True), is_it.to(rows.dtype) @ rows, result)


def _scored(result: Tensor, x: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Logits [..., V] of states `x` [..., H], with those of `rows` at `ids`."""
    return result.index_copy(-1, ids, F.linear(x, rows))
