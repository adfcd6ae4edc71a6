"""What the edits of a decode were worth: each is compared with the worked solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

KINDS = ("repairs", "breaks", "rewordings", "others")
Wordings = Callable[[str], Sequence[str]]  # of a line of a solution, all of as many tokens


def kinds_of_edits(
    decoder: Any, problems: list, task: Any, settings: dict, wordings: Wordings
) -> dict[str, float]:
    """Edits per 100 tokens by what they do to a position, of which the right tokens are known.

    A solution has a fixed format; where a line has several wordings, a token of any is right.
    repairs: a wrong token becomes a right one; breaks: the reverse; rewordings: one right token
    becomes another; others: one wrong token becomes another.
    """
    count = dict.fromkeys(KINDS, 0)
    tokenizer = decoder.tokenizer
    tokens = 0
    for start in range(0, len(problems), 32):
        batch = problems[start : start + 32]
        prompts = [task.messages(problem.question) for problem in batch]
        requests, room = decoder._prepare(prompts, None, None, settings)
        for request, problem in zip(requests, batch, strict=True):
            right = [*right_tokens(tokenizer, problem.solution, wordings), {tokenizer.eos_token_id}]
            request.on_draft = watch(right, tokenizer.mask_token_id, count)
        with decoder._running(requests, room) as steps:
            for _ in steps:
                pass
        tokens += sum(request.stats.tokens for request in requests)
    return {f"{kind}_per_100_tokens": 100.0 * many / tokens for kind, many in count.items()}


def right_tokens(tokenizer: Any, solution: str, wordings: Wordings) -> list[set[int]]:
    """For every position, the tokens that some wording of its line has there."""
    right: list[set[int]] = []
    lines = solution.splitlines(keepends=True)
    for line in lines:
        end = line[len(line.rstrip("\n")) :]
        ways = [
            tokenizer(way + end, add_special_tokens=False)["input_ids"]
            for way in wordings(line.removesuffix(end))
        ]
        right += [set(tokens) for tokens in zip(*ways, strict=True)]
    return right


def watch(right: list[set[int]], mask: int, count: dict[str, int]) -> Callable[..., None]:
    """Called with a request and its block's ids after every step; adds its edits to `count`."""
    held: dict[int, int] = {}  # by position in the answer
    kinds = {(False, True): "repairs", (True, False): "breaks", (True, True): "rewordings"}

    def on_draft(request: Any, ids: Any, logits: Any) -> None:
        assert not request.restarts, "out of memory: a block began again, take a smaller batch"
        first = request.start + request.head - len(request.prompt)
        for place, token in enumerate(ids[request.head :].tolist(), first):
            before = held.get(place, mask)
            held[place] = token
            if before not in (mask, token) and place < len(right):
                was_and_is = before in right[place], token in right[place]
                count[kinds.get(was_and_is, "others")] += 1

    return on_draft
