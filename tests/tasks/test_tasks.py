"""Worked solutions against the oracle, the split by question text, extraction and scores."""

from __future__ import annotations

import itertools
import re
import sys

import pytest

from fastedit.tasks import get_task, is_held_out, task_names

pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize("name", task_names())
def test_worked_solutions_score_exactly(name):
    task = get_task(name)
    for problem in itertools.islice(task.training(seed=3), 2000):
        assert task.score(problem.solution, problem) == (True, 1.0), problem


def test_chain_sum_lines_add_up():
    for problem in itertools.islice(get_task("chain_sum").training(seed=4), 2000):
        *steps, last = problem.solution.split("\n")
        total, terms = 500, []
        for step in steps:
            assert re.fullmatch(r"[+-]\d\d = \d{3}", step)
            term, result = step.split(" = ")
            terms.append(int(term))
            total += int(term)
            assert int(result) == total
        assert last == f"#### {total - 500:+04d}"
        assert terms_of(problem.question) == terms


def test_words_are_given_from_last_to_first():
    task, lengths = get_task("word_sequence_reversal"), set()
    for problem in itertools.islice(task.training(seed=4), 500):
        words = problem.question.strip().rpartition(": ")[2]
        assert problem.solution.split(", ") == words.split(", ")[::-1]
        assert len(words) <= 31 or words.count(", ") == 1
        lengths.add(len(words))
    assert len(lengths) > 12
    loose = get_task("word_sequence_reversal", max_length=500)
    assert len(loose.problem(7).solution) > 31 >= len(task.problem(7).solution)
    for length in (0, 9.5, True):
        with pytest.raises(ValueError, match=f"max_length={length}"):
            get_task("word_sequence_reversal", max_length=length)


def test_damage_is_what_it_says_and_repairs_are_of_all_lengths():
    task, seen, lengths = get_task("text_repair"), set(), set()
    for problem in itertools.islice(task.training(seed=4), 500):
        damaged = problem.question.removeprefix("Repair this text: ")
        done = problem.entry["metadata"]["operations"]
        more = done.count("double") - done.count("drop")
        assert damaged != problem.solution and len(damaged) - len(problem.solution) == more <= 3
        assert 16 <= len(problem.solution) <= 27
        assert not task.score(damaged, problem).exact
        seen |= set(done)
        lengths.add(more)
    assert seen == {"drop", "double", "replace"} and {-2, -1, 0, 1, 2} <= lengths
    assert task.problem(5, seed=3) == get_task("text_repair").problem(5, seed=3)
    one = get_task("text_repair", rate=0.0).problem(1)
    assert len(one.entry["metadata"]["operations"]) == 1
    for options, word in (
        ({"rate": 1.5}, "rate=1.5"),
        ({"min_length": 3}, "min_length=3"),
        ({"max_length": 20}, "max_length=20"),
        ({"max_length": 40.5}, "max_length=40.5"),
    ):
        with pytest.raises(ValueError, match=word):
            get_task("text_repair", **options)


def test_all_of_a_text_answers_a_task_without_a_mark():
    task = get_task("text_repair")
    assert task.extract(" has been\n") == "has been" and task.extract(" \n") is None


def terms_of(question: str) -> list[int]:
    expression = question.partition(": ")[2].removesuffix(" =")
    return [int(term) for term in re.findall(r"[+-]?\d+", expression.replace(" ", ""))]


def test_mixed_chain_sums_have_numbers_of_both_lengths_and_right_answers():
    task = get_task("chain_sum", mixed_share=0.5)
    plain = get_task("chain_sum")
    mixed = changed = 0
    for index in range(1000):
        problem, before = task.problem(index), plain.problem(index)
        terms = terms_of(problem.question)
        assert int(problem.entry["answer"]) == sum(terms)
        assert task.score(problem.solution, problem).exact
        mixed += len({len(str(abs(term))) for term in terms}) > 1
        changed += problem.question != before.question
    assert 100 < mixed <= changed < 300  # half of the half with two digits
    assert task.problem(5) == get_task("chain_sum", mixed_share=0.5).problem(5)
    with pytest.raises(ValueError, match="mixed_share=2"):
        get_task("chain_sum", mixed_share=2)


def test_leg_counting_lines_add_up():
    for problem in itertools.islice(get_task("leg_counting").training(seed=4), 2000):
        *lines, last = problem.solution.split("\n")
        total = 0
        for line in lines:
            match = re.fullmatch(r"(\d\d) ([a-z ]+) \* (\d\d) = (\d{3}) -> (\d{3})", line)
            count, name, legs, product, so_far = match.groups()
            total += int(count) * int(legs)
            assert f"{int(count)} {name}" in problem.question
            assert (int(product), int(so_far)) == (int(count) * int(legs), total)
        assert last == f"#### {total:03d}"


@pytest.mark.parametrize("name", task_names())
def test_split_is_disjoint_by_text_for_any_seed_and_difficulty(name):
    task = get_task(name)
    test = {problem.question for problem in task.test_set(300)}
    assert len(test) == 300
    for seed in (0, 1, 2**20):
        drawn = {p.question for p in itertools.islice(task.training(seed), 1000)}
        assert not drawn & test
        assert not any(map(is_held_out, drawn))
    assert {p.question for p in task.test_set(100)} <= test


def test_split_holds_out_about_a_tenth():
    task = get_task("leg_counting")
    share = sum(is_held_out(task.problem(i).question) for i in range(4000)) / 4000
    assert 0.08 < share < 0.12


def test_streams_are_reproducible_and_can_be_entered_anywhere():
    task = get_task("chain_sum")
    whole = list(itertools.islice(task.training(seed=7), 50))
    assert whole == list(itertools.islice(get_task("chain_sum").training(seed=7), 50))
    kept = [i for i in range(60) if not is_held_out(task.problem(i, seed=7).question)]
    assert next(task.training(seed=7, start=kept[9] + 1)) == whole[10]
    assert whole != list(itertools.islice(task.training(seed=8), 50))


@pytest.mark.parametrize(
    "text,answer",
    [
        ("+045\n#### +045", "+045"),
        ("#### 1\n#### 2 and more", "2"),
        ("####-7", "-7"),
        ("+045\n", None),
        ("#### ", None),
        ("", None),
    ],
)
def test_extraction(text, answer):
    assert get_task("chain_sum").extract(text) == answer


def test_leg_counting_answers_lose_their_leading_zeros():
    task = get_task("leg_counting")
    answers = [task.extract(f"#### {text}") for text in ("072", "000", "100", "x")]
    assert answers == ["72", "0", "100", "x"] and task.extract("072") is None


def test_wrong_and_missing_answers_are_not_exact():
    task = get_task("chain_sum")
    problem = task.problem(0)
    right = int(problem.entry["answer"])
    assert task.score(f"#### {right:+04d}", problem).exact
    assert not task.score(f"#### {right + 1:+04d}", problem).exact
    missing = task.score("no mark here", problem)
    assert not missing.exact and missing.credit < 1


def test_options_reach_reasoning_gym():
    task = get_task("chain_sum", min_terms=6, max_terms=6, max_digits=3)
    problem = task.problem(1)
    assert problem.entry["metadata"]["num_terms"] == 6
    assert re.fullmatch(r"[+]\d{3} = 5\d{4}", problem.solution.split("\n")[0])
    assert task.score(problem.solution, problem).exact


def test_a_difficulty_too_small_for_the_test_set_is_refused():
    task = get_task("chain_sum", min_terms=2, max_terms=2, max_digits=1)
    with pytest.raises(ValueError, match="fewer than 100"):
        task.test_set(100)


def test_unknown_name_and_missing_library(monkeypatch):
    with pytest.raises(ValueError, match="chain_sum"):
        get_task("sudoku")
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"tasks need reasoning-gym: pip install .*eval"):
        get_task("chain_sum")


def test_messages_are_a_chat():
    assert get_task("chain_sum").messages("2 + 2 =") == [{"role": "user", "content": "2 + 2 ="}]
