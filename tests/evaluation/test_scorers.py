"""Scorers of a user's own: found, called, and named where they fail."""

from __future__ import annotations

import sys

import pytest

from fastedit.evaluation.scorers import ScorerError, scorer_of, version_of

MODULE = """
import numpy
limit = 3
def same(text, answer): return text == answer
def share(text, answer): return len(set(text) & set(answer)) / max(1, len(answer))
def array(text, answer): return numpy.bool_(text in answer)
def word(text, answer): return "yes"
def nothing(text, answer): pass
def many(text, answer): return 2
def nan(text, answer): return float("nan")
def fails(text, answer): return int(text)
def alone(text): return True
class Judge:
    def judge(text, answer): return text in answer["any"]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = "scorers_of_a_test"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield f"python:{name}:"
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "text", "answer", "score"),
    [
        ("same", "a", "a", (True, 1.0)),
        ("same", "a", 1, (False, 0.0)),
        ("share", "ab", "abcd", (False, 0.5)),
        ("array", "a", ["a"], (True, 1.0)),
        ("Judge.judge", "b", {"any": ["a", "b"]}, (True, 1.0)),
    ],
)
def test_a_function_scores(module, name, text, answer, score):
    assert scorer_of(module + name)(text, answer) == score


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("word", r"must return True or False, or a number from 0 to 1; got 'yes' \(str\) for"),
        ("nothing", r"got 'None' \(NoneType\) for the text 'x'"),
        ("many", "got '2'"),
        ("nan", "got 'nan'"),
        ("fails", "python:scorers_of_a_test:fails raised ValueError: invalid literal"),
        ("alone", "alone raised TypeError: alone.. takes 1 positional"),
    ],
)
def test_what_is_no_score_is_named(module, name, message):
    with pytest.raises(ScorerError, match=message):
        scorer_of(module + name)("x", "y")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best", "exact, contains, number; got 'best'"),
        ("python:", "must be python:module:function"),
        ("python:json", "must be python:module:function"),
        ("python:no_such_module:f", "there is no module 'no_such_module' in .* or on PYTHONPATH"),
        ("python:json:nothing", "json has no 'nothing'; it has .*load"),
        (
            "python:json:decoder.scanstring.x",
            "json has no 'decoder.scanstring.x'; it has no functions",
        ),
        ("python:math:pi", "pi is no function but float"),
        ("python:broken_scorers:f", "cannot be imported: SyntaxError"),
        ("python:needing_scorers:f", "cannot be imported: ModuleNotFoundError: .*'no_such_thing'"),
    ],
)
def test_what_is_no_scorer_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_scorers.py").write_text("def f(:\n")
    (tmp_path / "needing_scorers.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend("")
    with pytest.raises(ValueError, match=message):
        scorer_of(name)


def test_another_code_is_another_version(module, tmp_path):
    scorer_of(module + "same")
    before = version_of(module + "same")
    (tmp_path / "scorers_of_a_test.py").write_text(MODULE + "\n# changed\n")
    assert version_of(module + "same") != before
    assert version_of("exact") == "exact"


@pytest.mark.parametrize(
    ("text", "answer", "same"),
    [
        ("#### -037", "-37", True),
        ("0.00001", "1e-05", True),
        ("10000000000000000", "1e16", True),
        ("it is 1,234,567.50", "1234567.5", True),
        ("1,2,3", "123", False),
        ("1,2,3", "3", True),
        ("between 3-5", "5", True),
        ("x=-5", "5", False),
        ("none", "5", False),
    ],
)
def test_the_last_number_is_the_answer(text, answer, same):
    assert scorer_of("number")(text, answer)[0] is same
