"""`evaluate`: sums that add up, intervals, sizes."""

from __future__ import annotations

import pytest

from fastedit.decoder import Decoder
from fastedit.evaluation.accuracy import evaluate, wilson_interval

pytest.importorskip("reasoning_gym")
OPTIONS = {"max_new_tokens": 24}


@pytest.fixture(scope="module")
def decoder():
    return Decoder.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def task():
    from fastedit.tasks import get_task

    return get_task("chain_sum")


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_wilson_interval(successes, n, low, high):
    """81 of 263 and 0 of 10 are published examples (Newcombe 1998; Brown, Cai and DasGupta)."""
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_sums_are_those_of_the_requests_however_many_decode_together(decoder, task):
    done = []
    result = evaluate(decoder, task, 5, batch_size=2, on_done=done.append, **OPTIONS)
    out = decoder.generate([task.messages(p.question) for p in task.test_set(5)], **OPTIONS)
    assert sum(done) == 5 and len(done) > 2
    times = ("seconds", "tokens_per_second", "batch_size")
    same = {name: value for name, value in result.items() if name not in times}
    for batch_size in (1, 5):
        assert evaluate(decoder, task, 5, batch_size=batch_size, **OPTIONS).items() >= same.items()
    for name, key in (("tokens", "tokens"), ("forwards", "forwards"), ("edits", "t2t_edits")):
        assert result[name] == sum(getattr(stats, key) for stats in out.stats)
    assert result["tokens_per_forward"] == result["tokens"] / result["forwards"]
    assert result["edits_per_100_tokens"] == 100 * result["edits"] / result["tokens"]
    assert result["accuracy"] == result["exact"] / 5
    assert result["seconds"] > 0 and result["tokens_per_second"] > 0


def test_right_answers_are_counted_in_any_order_of_their_ends(decoder, task, monkeypatch):
    """An oracle answers two of three, the last one first."""
    problems = task.test_set(3)
    as_completed = type(decoder).as_completed

    def oracle(self, prompts, **options):
        results = list(as_completed(self, prompts, **options))
        solutions = {problem.question: problem.solution for problem in problems[:2]}
        for result in sorted(results, key=lambda result: -result.index):
            result.text = solutions.get(prompts[result.index][0]["content"], "")
            yield result

    monkeypatch.setattr(type(decoder), "as_completed", oracle)
    result = evaluate(decoder, task, 3, **OPTIONS)
    assert (result["exact"], result["accuracy"]) == (2, 2 / 3)
    assert result["interval"] == list(wilson_interval(2, 3))
    assert 2 / 3 <= result["partial_credit"] < 1


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 2, "batch_size": 0}])
def test_sizes_are_checked(decoder, task, bad):
    with pytest.raises(ValueError, match="must be at least 1"):
        evaluate(decoder, task, **bad)
