"""The study of the correction head: which forward of a block wrote its wrong tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from correction_arms import ARMS, REPORTED, TASKS, settled


def blame(checkpoint: str) -> list[dict[str, Any]]:
    """Without correction: the wrong tokens of all answers, and how many of them the forward wrote
    that filled the last masks of their block: no later one sees them.

    Solutions have a fixed format, so the right token of every position is known.
    """
    from fastedit import Decoder
    from fastedit.tasks import get_task

    decoder = Decoder.from_pretrained(checkpoint)
    found = []
    for fills, name in itertools.product((4, 8, 16), TASKS):
        task, count = get_task(name), dict.fromkeys(("tokens", "wrong", "wrong_in_last"), 0)
        problems = task.test_set(REPORTED[fills][1])
        how = {"policy": settled(*ARMS["no correction"], fills)}
        for start in range(0, len(problems), 32):
            batch = problems[start : start + 32]
            prompts = [task.messages(problem.question) for problem in batch]
            requests, room = decoder._prepare(prompts, None, None, how)
            written: list[dict[int, tuple[int, int, int]]] = [{} for _ in batch]
            for request, held in zip(requests, written, strict=True):
                request.on_draft = watch(held, decoder.tokenizer.mask_token_id)
            with decoder._running(requests, room) as steps:
                for _ in steps:
                    pass
            for problem, held in zip(batch, written, strict=True):
                right = decoder.tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
                add_blame([*right, decoder.tokenizer.eos_token_id], held, count)
        found.append({"task": name, "pace": fills, **count})
    return found


def watch(held: dict[int, tuple[int, int, int]], mask: int) -> Callable[..., None]:
    """Called with a request and its block's ids after every step: what each place of the answer
    holds, the block that it is in, and the step that wrote it."""
    step = itertools.count()

    def on_draft(request: Any, ids: Any, logits: Any) -> None:
        now, first = next(step), request.start + request.head - len(request.prompt)
        for place, token in enumerate(ids[request.head :].tolist(), first):
            if token != mask and held.get(place, (mask,))[0] != token:
                held[place] = token, request.start, now

    return on_draft


def add_blame(
    right: list[int], held: dict[int, tuple[int, int, int]], count: dict[str, int]
) -> None:
    """Count the tokens of an answer that should be `right`, and what is wrong in what was held."""
    last: dict[int, int] = {}  # step, by block
    for _, block, step in held.values():
        last[block] = max(last.get(block, 0), step)
    for place, token in enumerate(right):
        found, block, step = held.get(place, (None, -1, -1))
        count["tokens"] += 1
        count["wrong"] += found != token
        count["wrong_in_last"] += found != token and step == last.get(block)
