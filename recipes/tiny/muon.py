"""Muon for matrices and stacks of matrices, such as the experts of a layer, beside AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, of each matrix of `matrix` [..., m, n].

    Five Newton-Schulz steps with the coefficients of Keller Jordan's Muon (KellerJordan/Muon,
    `muon.py`): singular values end between about 0.7 and 1.2. In the matrix's own dtype, since a
    CPU without bf16 units takes longer over bf16 products than over the rest of the step.
    """
    x = matrix
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Nesterov momentum, orthogonalised per matrix, for groups with a `momentum`; else AdamW.

    Parameters of such groups are [m, n] or [experts, m, n]; `torch.optim.Muon` takes the first
    kind only, and nothing beside it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        for group in self.param_groups:
            if "momentum" not in group:
                continue
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                    state["step"] = torch.zeros(())  # AdamW looks for one when it loads a state
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                scale = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
                p.add_(update, alpha=-group["lr"] * scale)
                p.grad = None  # AdamW passes over it
        return super().step(closure)
