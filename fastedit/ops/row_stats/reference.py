"""Row statistics in plain torch: what the other back ends must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.plain import LARGEST, ban_, draw_, finite, probability_of, row_sum
from fastedit.ops.row_stats import RowStats, by_rows
from fastedit.ops.sampling import RowDraws, uniform


@by_rows
def row_stats(
    logits: Tensor,
    current: Tensor,
    *,
    forbid: tuple[int, ...],
    temperature: float | Tensor,
    entropy: bool,
    top_k: int,
    draws: RowDraws | None,
    only: int | None,
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    if not isinstance(temperature, Tensor):
        temperature = torch.full_like(current, temperature, dtype=torch.float32)
    heat = temperature.clamp(1e-30, 1e30).nan_to_num(nan=1e-30)
    scores, bad = finite(logits.flatten(0, -2))
    top = scores.amax(-1)
    # Relative to the best, so that a small temperature makes no ties by overflow.
    weights = ((scores - top.clamp(min=-LARGEST)[:, None]) / heat[:, None]).exp()
    total = row_sum(weights)
    probs = weights / total[:, None]  # bit for bit what the decision step compares
    scaled = (top / heat).clamp(-LARGEST, LARGEST)
    best, token = ban_(scores, forbid).max(-1)
    exists = best > -torch.inf
    token = torch.where(exists, token, current)
    top_tokens, top_probs = _ranks(scores, probs, top_k) if top_k else (None, None)
    sample, sample_prob = None, None
    if draws is not None:
        u = uniform(draws.seed, draws.position, draws.forward, draws.purpose)
        sample, sample_prob = draw_(scores, heat, draws.top_k, draws.top_p, u)
        sample = torch.where(exists, sample, current)
    stats = RowStats(
        token=token,
        prob=torch.where(exists, probability_of(probs, token), 0.0),
        prob_current=probability_of(probs, current),
        lse=torch.where(top == -torch.inf, top, scaled + total.log()),
        entropy=row_sum(torch.special.entr(probs.nan_to_num(nan=0.0))) if entropy else None,
        bad=bad | ~exists,
        top_tokens=top_tokens,
        top_probs=top_probs,
        sample=sample,
        sample_prob=sample_prob,
    )
    return stats if only is None else _without(stats, current != only, current)


def _without(stats: RowStats, unread: Tensor, current: Tensor) -> RowStats:
    """`stats` where the rows of `unread` [R] have none."""
    nothing: dict[str, Tensor | float] = {
        "token": current,
        "lse": -torch.inf,
        "bad": False,
        "top_tokens": -1,
        "sample": current,
    }
    fields: dict[str, Tensor] = {}
    for name, field in vars(stats).items():
        if field is not None:
            where = unread[:, None] if field.ndim == 2 else unread
            fields[name] = torch.where(where, nothing.get(name, 0.0), field)
    return RowStats(**(vars(stats) | fields))


def _ranks(scores: Tensor, probs: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The `top_k` best ids of `scores` [R, V] with their `probs`; -1 and 0 beyond the finite."""
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    missing = max(0, top_k - scores.shape[-1])
    ranked, order = (torch.nn.functional.pad(x[:, :top_k], (0, missing)) for x in (ranked, order))
    ranked[:, top_k - missing :] = -torch.inf
    exists = ranked > -torch.inf
    return torch.where(exists, order, -1), torch.where(exists, probs.gather(-1, order), 0.0)
