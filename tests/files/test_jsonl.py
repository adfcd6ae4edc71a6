"""Files of JSON Lines: what they may be, and what others are called."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import threading
import zipfile

import pytest

from fastedit.files.jsonl import BadLines, DataError, Lines, parse, read_lines

LINES = b'{"a": 1}\n\n{"a": "\xc3\xa9"}\n'


def test_bom_gzip_and_line_numbers(tmp_path):
    for number, data in enumerate([LINES, b"\xef\xbb\xbf" + LINES]):
        for content in (data, gzip.compress(data)):
            path = tmp_path / f"{number}.data"
            path.write_bytes(content)
            assert read_lines(path) == read_lines(str(path)) == LINES.split(b"\n")


def test_dash_is_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LINES))))
    assert read_lines("-") == LINES.split(b"\n")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
def test_lines_are_read_again_from_anywhere(tmp_path, packed, pipe):
    content = b"\xef\xbb\xbf" + LINES + b'{"a": "the end"}'
    content, path = gzip.compress(content) if packed else content, tmp_path / "data.jsonl"
    if pipe:
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(content,)).start()
    else:
        path.write_bytes(content)
    with contextlib.closing(Lines(path)) as lines:
        found = list(lines)
        assert [number for number, _, _ in found] == [1, 3, 4] and list(lines) == found
        for _, place, line in (found[1], found[0], found[2]):
            assert lines.at(place).rstrip(b"\n") == line
        assert lines.whole() == LINES + b'{"a": "the end"}'


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jsonl", LINES)
    return buffer.getvalue()


ARRAY = json.dumps([{"a": 1}, {"a": 2}])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (LINES.decode().encode("utf-16"), "UTF-16 text, .*iconv -f UTF-16"),
        (LINES.decode().encode("utf-16-be"), "UTF-16 text"),
        (b'{"a": 1}\n'.decode().encode("utf-16-le"), "UTF-16 text"),
        (LINES.decode().encode("utf-32"), "UTF-32 text"),
        (ARRAY.encode(), "a JSON array, .*jq -c"),
        (json.dumps([{"a": 1}], indent=1).encode(), "a JSON array"),
        (ARRAY.replace("}, {", "},\n{").encode(), "a JSON array"),
        (gzip.compress(ARRAY.encode(), mtime=0), "a JSON array"),
        (json.dumps({"a": [1, 2]}, indent=1).encode(), "one JSON object over several lines"),
        (b"prompt,id\nhello,1\n", "a CSV or TSV table"),
        (b"prompt\tid\nhello\t1\n", "a CSV or TSV table"),
        (b"PAR1\x15\x04", "a Parquet file, .*to_json"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (archive(), "a ZIP archive"),
        (b"\xfd7zXZ\x00\x00", "xz-compressed, .*decompress"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd-compressed"),
        (b"BZh91AY", "bzip2-compressed"),
        (bytes(range(256)) * 20, "a binary file"),
        (gzip.compress(LINES, mtime=0)[:-6], "no whole gzip file"),
    ],
)
def test_other_files_are_named_as_what_they_are(tmp_path, content, kind):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.jsonl is {kind}") as error:
        read_lines(path)
    assert "\n" not in str(error.value)


def test_bad_lines_are_no_other_kind_of_file(tmp_path):
    path = tmp_path / "data.jsonl"
    for content in (b"[1]\n[2]\n", b"{\n[]\n", b"hello\n", b"", b"\xff\n", b'"a, b"\n{"a": 1}\n'):
        path.write_bytes(content)
        assert read_lines(path) == content.split(b"\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": 1', "is not JSON"),
        (b"[1]", "must be a JSON object, not list"),
        (b'{"a": "\xff"}', "is not valid UTF-8 text: byte 0xff at offset 7; write it as UTF-8, as"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": [1e400]}', "holds 1e400, which is too large"),
        (b'{"a": -1.5E999}', "holds -1.5E999, which is too large"),
    ],
)
def test_what_a_line_must_not_be(line, words):
    with pytest.raises(ValueError, match=words):
        parse(line)


def test_bad_lines_stop_or_are_skipped():
    for policy in ("stop", "skip"):
        bad = BadLines(policy, advice="do it")
        bad.check()
        assert bad.add("f:3", ValueError("is\nbad")) == "f:3: is bad"
        if policy == "stop":
            with pytest.raises(DataError, match=r"^f:3: is bad\ndo it$"):
                bad.check()
        else:
            with pytest.warns(UserWarning, match="skipped 1 bad lines"):
                bad.check()
    with pytest.raises(ValueError, match="'stop' or 'skip'; got 'pause'"):
        BadLines("pause")
