"""Questions of files: what a line asks, which answers are right, and what is no question."""

from __future__ import annotations

import json

import pytest

from fastedit.evaluation.tuning.questions import SCORERS, of_file
from fastedit.files.jsonl import BadLines, DataError


@pytest.fixture
def read(tmp_path):
    def read_lines(*lines, policy="stop", **options):
        path = tmp_path / "q.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        bad = BadLines(policy)
        questions = of_file(path, bad, **options)
        bad.check()
        return questions

    return read_lines


@pytest.mark.parametrize(
    ("scorer", "answer", "right", "wrong"),
    [
        ("exact", " 12\n", ["12", " 12 "], ["12.", "", "#### 12"]),
        ("contains", "Paris ", ["It is Paris.", "Paris"], ["paris", ""]),
        ("number", "9 + 9 = 18 #### 18", ["so 18.", "$18.00", "1 + 17 = +18"], ["81", "-18", ""]),
        ("number", "1,250", ["1250 apples", "1,250.0"], ["1", "250"]),
        ("number", "-.5", ["it is -0.5"], ["0.5", "5"]),
    ],
)
def test_scorers(scorer, answer, right, wrong):
    judge = SCORERS[scorer]
    assert all(judge(text, answer) for text in right)
    assert not any(judge(text, answer) for text in wrong)


def test_texts_chats_and_numbers_are_read(read):
    chat = [{"role": "user", "content": "and 2 + 2?"}]
    lines = [
        {"prompt": "1 + 1?", "answer": 2, "id": 7},
        {"messages": chat, "answer": "4", "source": "me"},
        {"prompt": "3?", "system": "Be brief.", "answer": 3.5},
    ]
    found = read(*lines)
    assert [item.prompt for item in found.items[:2]] == ["1 + 1?", chat]
    assert found.items[2].prompt[0] == {"role": "system", "content": "Be brief."}
    assert [item.answer for item in found.items] == ["2", "4", "3.5"]
    assert found.right(" 2", found.items[0]) and not found.right("2", found.items[1])
    named = {"q": "1 + 1?", "gold": "2"}
    assert read(named, prompt_field="q", answer_field="gold").items[0][:2] == ("1 + 1?", "2")


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ({"prompt": "a"}, {}, "has no `answer`, the expected answer: --answer-field"),
        ({"prompt": "a", "answer": " "}, {}, "must be the expected answer"),
        ({"prompt": "a", "answer": True}, {}, "got 'True'"),
        ({"prompt": "a", "answer": ["b"]}, {}, "must be the expected answer"),
        ({"answer": "b"}, {}, "needs one of `prompt` and `messages`"),
        ({"prompt": "a", "messages": [{}], "answer": "b"}, {}, "needs one of"),
        ({"prompt": 5, "answer": "b"}, {}, "must be a text"),
        ({"prompt": "a", "answer": "b", "hint": "c"}, {}, "`hint` would be left unread.*--ignore"),
        ({"prompt": "a", "answer": "b"}, {"scorer": "number"}, "holds no number: 'b'"),
        ({"prompt": "a", "answer": "b"}, {"answer_field": "gold"}, "has no `gold`|`answer` would"),
        ({"prompt": "a", "answer": "b"}, {"scorer": "best"}, "exact, contains, number; got 'best'"),
    ],
)
def test_what_is_no_question_is_named(read, line, options, message):
    with pytest.raises((DataError, ValueError), match=message):
        read(line, **options)


def test_bad_lines_may_be_skipped_and_columns_ignored(read):
    good = {"prompt": "a", "answer": "b", "hint": "c"}
    with pytest.warns(UserWarning, match=r"q\.jsonl:2: has no `answer`"):
        found = read(good, {"prompt": "a"}, good, policy="skip", ignore_fields=["hint"])
    assert [item.where[-2:] for item in found.items] == [":1", ":3"]


def test_the_digest_tells_what_is_asked_and_how_it_is_judged(read):
    line = {"prompt": "a", "answer": "1"}
    digest = read(line).digest()
    assert read(line | {"id": 3}).digest() == digest
    others = [
        read(line | {"answer": "2"}),
        read(line | {"prompt": "b"}),
        read(line, scorer="number"),
        read(line, raw=True),
        read(line, line),
    ]
    assert digest not in {other.digest() for other in others}
