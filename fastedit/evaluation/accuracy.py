"""How often the answers to a task are right, and how few forwards they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.results import Result
    from fastedit.tasks import Task

BATCH = 32  # what the engine runs at once


def evaluate(
    decoder: Decoder,
    task: Task,
    n: int,
    *,
    batch_size: int = BATCH,
    on_done: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> dict[str, Any]:
    """Decode the first n held-out problems of `task` and score them; a dictionary for JSON.

    batch_size  problems that decode together: one that ends makes room for the next;
                on_done(k) is called when k more have ended
    overrides   options of `DecodeConfig`

    accuracy is the share of exact answers, interval its 95 % Wilson interval, partial_credit the
    scorer's mean. Ratios are of sums over all problems. seconds hold decoding alone: loading,
    scoring and one untimed problem at the start are left out. A failed request counts as wrong.
    truncated: answers that max_new_tokens cut off. block_forwards: as `DecodeStats` has them.
    Raises ValueError and TypeError for bad options, and what `Decoder.as_completed` raises.
    """
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    problems = task.test_set(n)
    prompts = [task.messages(problem.question) for problem in problems]
    options = {**overrides, "max_batch": batch_size}
    first = (
        options | {"seed": seed[:1]} if isinstance(seed := options.get("seed"), list) else options
    )
    list(decoder.as_completed(prompts[:1], **first))  # first calls allocate and compile
    decoder.close()  # nothing that an evaluation before this one computed is used
    results: list[Result] = []
    started = time.perf_counter()
    for result in decoder.as_completed(prompts, **options):
        results.append(result)
        on_done(1)
    seconds = time.perf_counter() - started
    results.sort(key=lambda result: result.index)
    stats = [result.stats for result in results]
    failed = sum(result.error is not None for result in results)
    answered = [(r.text, p) for r, p in zip(results, problems, strict=True) if r.text is not None]
    scores = [task.score(text, problem) for text, problem in answered]
    exact = sum(score.exact for score in scores)
    names = ("tokens", "forwards", "block_forwards", "t2t_edits", "remasks")
    tokens, forwards, block_forwards, edits, remasks = (
        sum(getattr(s, name) for s in stats) for name in names
    )
    return {
        "task": task.name,
        "n": n,
        "exact": exact,
        "accuracy": exact / n,
        "interval": list(wilson_interval(exact, n)),
        "partial_credit": sum(score.credit for score in scores) / n,
        "tokens": tokens,
        "forwards": forwards,
        "block_forwards": block_forwards,
        "edits": edits,
        "remasks": remasks,
        "failed": failed,
        "truncated": sum(s.finish_reason == "length" for s in stats),
        "tokens_per_forward": tokens / forwards if forwards else 0.0,
        "edits_per_100_tokens": 100.0 * edits / tokens if tokens else 0.0,
        "remasks_per_100_tokens": 100.0 * remasks / tokens if tokens else 0.0,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "batch_size": batch_size,
    }


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default; inside [0, 1], also at 0 and n."""
    share = successes / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
