"""Traces go to a file and come back; what is no trace is one clear error."""

import gzip
import json

import pytest

from fastedit import traces


def test_round_trip(trace, moved, edited, tmp_path):
    path = tmp_path / "t.jsonl"
    traces.save([trace, moved, *edited], path)
    assert traces.load(path) == [trace, moved, *edited]
    trace.save(path)
    assert traces.load(path) == [trace]
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert traces.load(packed) == [trace]


def test_the_first_line_says_what_it_is(trace, tmp_path):
    trace.save(tmp_path / "t.jsonl")
    header, *lines = map(json.loads, (tmp_path / "t.jsonl").read_text().splitlines())
    assert (header["schema"], header["version"]) == ("fastedit.trace", 1)
    assert header["tokens"]["2"] == "two" and header["policy"] == trace.policy
    kinds = {"open", "forward", "fill", "edit", "remask", "commit"}
    assert {line["kind"] for line in lines} == kinds
    assert lines[2] == {
        "kind": "fill", "forward": 1, "block": 0, "position": 0, "old": 9, "new": 1,
        "p_new": 0.9, "confidence": 0.9, "policy": "joint_threshold",
    }  # fmt: skip


def test_a_file_that_was_cut_is_refused(trace, tmp_path):
    path = tmp_path / "t.jsonl"
    trace.save(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(ValueError, match=r"has \d+ of its \d+ lines: the file was cut"):
        traces.load(path)


HEADER = {
    "schema": "fastedit.trace",
    "version": 1,
    "request": 0,
    "policy": "remask",
    "mask_token_id": 9,
    "tokens": {},
    "stats": {},
}
FILL = {"kind": "fill", "forward": 1, "block": 0, "position": 0, "old": 9, "new": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no trace: `fastedit generate --trace` writes some"),
        ([{"prompt": "hello"}], ":1: is no header of a trace: .* got None"),
        ([HEADER | {"schema": "x"}], ":1: is no header of a trace: .* got 'x'"),
        ([HEADER | {"version": 2}], ":1: is a trace of version 2, and this fastedit reads up to 1"),
        ([HEADER | {"version": "1"}], ":1: version must be an integer from 1 on; got '1'"),
        ([HEADER | {"policy": None}], ":1: policy must be a text; got None"),
        ([HEADER | {"tokens": {"a": "b"}}], ":1: tokens must map ids to texts"),
        ([HEADER | {"stats": []}], r":1: stats must be an object; got \[\]"),
        ([FILL], ":1: is no header of a trace"),
        ([HEADER, '{"kind": "fill", "forw'], ":2: is not JSON: Unterminated string"),
        ([HEADER, "[1]"], ":2: must be a JSON object, not list"),
        ([HEADER, FILL, {"kind": "twist"}], ":3: kind must be one of open, forward, .*got 'twist'"),
        ([HEADER, FILL | {"position": "x"}], ":2: position must be an integer; got 'x'"),
        ([HEADER, FILL | {"new": 1.5}], ":2: new must be an integer or null; got 1.5"),
        ([HEADER, FILL | {"p_new": "high"}], ":2: p_new must be a number or null; got 'high'"),
        ([HEADER, {"kind": "open", "forward": 1}], ":2: a line of kind 'open' must have block"),
        (
            [HEADER, {"kind": "forward", "forward": 1, "block": 0, "position": 0,
                      "confidence": [0.5], "moved": [-1]}],
            ":2: put must have an id for every -1 in moved",
        ),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_clear_error(tmp_path, lines, message):
    path = tmp_path / "t.jsonl"
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        traces.load(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_fields_of_later_versions_of_the_same_format_are_left_alone(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(HEADER) + "\n" + json.dumps(FILL | {"mood": "good"}) + "\n")
    (trace,) = traces.load(path)
    assert trace.events[0].new == 1


def test_what_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        traces.load(tmp_path / "none.jsonl")
