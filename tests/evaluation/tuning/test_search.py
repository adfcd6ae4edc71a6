"""The search on a model whose answers are known: limits, fairness of the halves, going on."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit.evaluation.tuning.measure import Tally
from fastedit.evaluation.tuning.pareto import beats
from fastedit.evaluation.tuning.questions import Question
from fastedit.evaluation.tuning.record import FACTS, TALLIES, Record
from fastedit.evaluation.tuning.search import HELD_OUT, Limits, Search
from fastedit.evaluation.tuning.space import Space
from fastedit.policies import JointThreshold, Policy, Saber

N = 40
ITEMS = [Question(f"question {number}", "", f"q:{number}") for number in range(N)]
FIXED = ("editing_threshold", "max_post_steps")


class Known:
    """A higher threshold takes more forwards, and is right more often; nothing is decoded."""

    def __init__(self) -> None:
        self.calls: list[tuple[Policy, list[Question]]] = []

    def __call__(self, policy, items):
        self.calls.append((policy, items))
        return Tally.sum(self._one(policy, item) for item in items)

    def takes(self, policy) -> bool:
        return True

    def _one(self, policy, item):
        luck = Random(f"{policy} {item.prompt}").random()
        right = luck < 0.2 + 0.7 * policy.threshold
        forwards = 2 + round(10 * policy.threshold) + 3 * policy.num_to_transfer
        return Tally(n=1, right=right, forwards=forwards, tokens=20)


def search(measure=None, record=None, seed=0, **limits) -> Search:
    space = Space.of(JointThreshold(), FIXED)
    record = Record() if record is None else record
    return Search(space, ITEMS, measure or Known(), record, seed=seed, limits=Limits(**limits))


def test_the_same_seed_gives_the_same_report_and_another_one_another():
    first, second, other = (search(seed=seed).run() for seed in (3, 3, 4))
    assert first == second and json.loads(json.dumps(first)) == first
    assert first["candidates"] != other["candidates"]


def test_the_front_is_chosen_on_one_half_and_scored_on_the_other():
    known = Known()
    report = search(known, candidates=24).run()
    assert report["tried"] == 24 and report["stopped"] == "candidates"
    points = [(c["right"], c["forwards"]) for c in report["candidates"]]
    front = [(f["selection"]["right"], f["selection"]["forwards"]) for f in report["front"]]
    assert not any(beats(point, best) for point in points for best in front)
    assert front == sorted(set(front)) and len(front) > 2
    asked: dict[Policy, list[list[Question]]] = {}
    for policy, items in known.calls:
        asked.setdefault(policy, []).append(items)
    reported = {f["policy"] for f in report["front"]} | {report["default"]["policy"]}
    for policy, parts in asked.items():
        names = [item.prompt for part in parts for item in part]
        assert len(names) == len(set(names))  # nothing is asked twice
        assert (len(names) == N) == (str(policy) in reported)
    sizes = [sum(map(len, parts)) for parts in asked.values()]
    assert {5, 10, N} <= set(sizes)  # some are given up after a quarter, some after a half
    default = asked[JointThreshold()]
    chosen, held_out = {q.where for part in default[:-1] for q in part}, default[-1]
    assert len(chosen) == len(held_out) == N / 2
    assert not chosen & {question.where for question in held_out}


def test_it_finds_better_settings_than_the_default():
    """num_to_transfer only costs here: the front is at its least value."""
    report = search(candidates=64).run()
    assert all(entry["parameters"]["num_to_transfer"] <= 2 for entry in report["front"])
    cheap, dear = report["front"][0], report["front"][-1]
    assert cheap["selection"]["forwards"] < report["default"]["selection"]["forwards"]
    assert dear["held_out"]["accuracy"] >= cheap["held_out"]["accuracy"]


@given(st.integers(1, 20000), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_budget_is_kept_to_but_for_what_has_begun(budget, seed):
    known = Known()
    report = search(known, seed=seed, forwards=budget, candidates=200).run()
    least = report["default"]["selection"]["forwards"] + report["default"]["held_out"]["forwards"]
    most = 24 * 10  # of the evaluation that had begun; and 24 * 20 where it joins the front
    assert report["forwards"] <= max(budget, least) + most + 24 * 20
    assert report["forwards"] == sum(known(p, q).forwards for p, q in list(known.calls))
    if budget < 8000:  # 200 settings take more
        assert report["stopped"] == "forwards"


def test_minutes_end_it_and_the_default_is_measured_in_any_case():
    report = search(minutes=1e-9).run()
    assert report["stopped"] == "minutes" and report["tried"] == 1
    assert [entry["default"] for entry in report["front"]] == [True]
    assert report["default"]["held_out"]["n"] == N / 2


def test_a_small_space_is_tried_out():
    class Any(Known):
        def _one(self, policy, item):
            return Tally(n=1, right=1, forwards=policy.least)

    space = Space.of(Saber(), ["mu", "scope"])
    report = Search(space, ITEMS, Any(), Record(), limits=Limits(candidates=100)).run()
    assert report["stopped"] == "space" and report["tried"] == 4
    assert [entry["parameters"] for entry in report["front"]] == [{"least": 1}]


class Killed(Exception):
    pass


class KilledAfter(Known):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __call__(self, policy, items):
        if not self.left:
            raise Killed
        self.left -= 1
        return super().__call__(policy, items)


@pytest.mark.parametrize("limits", [{"candidates": 12}, {"candidates": 99, "forwards": 3000}])
def test_a_run_that_goes_on_ends_as_one_from_the_start(tmp_path, limits):
    whole = Known()
    expected = search(whole, **limits).run()
    for killed in range(0, len(whole.calls), 3):
        folder = tmp_path / str(killed)
        folder.mkdir()
        with Record().open(folder, {}) as record, pytest.raises(Killed):
            search(KilledAfter(killed), record, **limits).run()
        with (folder / TALLIES).open("a") as file:
            file.write('{"policy": "joint_thre')  # cut off in the middle
        rest = Known()
        with Record().open(folder, {}) as record:
            assert len(record) == killed
            assert search(rest, record, **limits).run() == expected
        assert [call[0] for call in whole.calls[killed:]] == [call[0] for call in rest.calls]


def test_a_larger_limit_goes_on_and_ends_as_one_from_the_start(tmp_path):
    for candidates in (5, 30):
        with Record().open(tmp_path, {}) as record:
            report = search(record=record, candidates=candidates).run()
    assert report == search(candidates=30).run()


def test_a_folder_of_something_else_is_refused(tmp_path):
    facts = {"checkpoint": {"weights": "a"}, "data set": "b", "policy": None}
    with Record().open(tmp_path, facts) as record:
        record.add("saber", HELD_OUT, Tally(n=2, right=1))
    with Record().open(tmp_path, facts) as record:
        assert record == {("saber", HELD_OUT): Tally(n=2, right=1)}
    for name, value in (("checkpoint", {"weights": "c"}), ("data set", "c"), ("policy", "saber")):
        with (
            pytest.raises(ValueError, match=f"was tuned with another {name}: give"),
            Record().open(tmp_path, facts | {name: value}),
        ):
            pass
    lines = (tmp_path / TALLIES).read_text()
    for line in ("[]", '{"policy": "saber", "part": "1", "worth": 3}', '{"n": 3}'):
        (tmp_path / TALLIES).write_text(lines + line + "\n")
        with (
            pytest.raises(ValueError, match=r"measured\.jsonl:2: is no line of a tuning run"),
            Record().open(tmp_path, facts),
        ):
            pass
    (tmp_path / FACTS).unlink()
    with (
        pytest.raises(FileExistsError, match=r"holds measured\.jsonl, but no tune\.json"),
        Record().open(tmp_path, facts),
    ):
        pass


@pytest.mark.parametrize("name", ["candidates", "forwards", "minutes"])
def test_limits_are_checked(name):
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"{name} must be above 0; got {value}"):
            Limits(**{name: value})


def test_questions_must_suffice():
    space = Space.of(JointThreshold(), FIXED)
    for n in (0, 3):
        with pytest.raises(ValueError, match=f"at least 4 questions; there are {n}"):
            Search(space, ITEMS[:n], Known(), Record())
    assert Search(space, ITEMS[:4], Known(), Record()).run()["questions"]["held_out"] == 2
