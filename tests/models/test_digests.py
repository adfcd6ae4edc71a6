"""A checkpoint is what its bytes are: which of its files count, and how large ones are read."""

from __future__ import annotations

import os
import shutil

import pytest

from fastedit.models import digests
from fastedit.models.checkpoint_files import CheckpointError
from fastedit.models.digests import adapter_digest, checkpoint_digests


@pytest.fixture
def folder(golden, tmp_path):
    names = ("config.json", "model.safetensors")
    (tmp_path / "model").mkdir()
    for name in names:
        shutil.copy(golden / name, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("generation_config.json", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("spiece.model", "tokenizer"),
        ("chat_template.jinja", "tokenizer"),
        ("additional_chat_templates/tools.jinja", "tokenizer"),
        ("README.md", None),
        ("trainer_state.json", None),
        ("original/model.safetensors", None),
    ],
)
def test_a_file_counts_if_loading_reads_it(folder, name, part):
    before = checkpoint_digests(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    after = checkpoint_digests(folder)
    assert {key for key in before if before[key] != after[key]} == ({part} if part else set())


def test_the_same_bytes_under_another_name_are_another_file(folder):
    (folder / "vocab.json").write_text("{}")
    before = checkpoint_digests(folder)
    (folder / "vocab.json").rename(folder / "added_tokens.json")
    assert checkpoint_digests(folder)["tokenizer"] != before["tokenizer"]


def test_each_file_is_read_once(folder, monkeypatch):
    read, content = [], digests._content
    monkeypatch.setattr(digests, "_content", lambda path: read.append(path.name) or content(path))
    checkpoint_digests(folder)
    assert sorted(read) == ["config.json", "model.safetensors"]


def test_no_checkpoint_has_no_digest(folder):
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        checkpoint_digests(folder)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """An adapter of more bytes than are read, as if it had a gigabyte."""
    monkeypatch.setattr(digests, "LARGE", 1000)
    monkeypatch.setattr(digests, "_SLICE", 16)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(bytes(range(256)) * 40)
    os.utime(path, (10**9, 10**9))
    return path


@pytest.mark.parametrize("place", [0, 5, 10239])
def test_slices_of_a_large_file_are_read_from_end_to_end(large, place):
    before = adapter_digest(large.parent)
    data = bytearray(large.read_bytes())
    data[place] ^= 1
    large.write_bytes(data)
    os.utime(large, (10**9, 10**9))
    assert adapter_digest(large.parent) != before


def test_of_a_large_file_size_and_time_count_too(large):
    before = adapter_digest(large.parent)
    os.utime(large, (10**9, 10**9 + 0.5))
    assert adapter_digest(large.parent) == before  # a copy may keep whole seconds alone
    os.utime(large, (10**9, 10**9 + 1))
    written_later = adapter_digest(large.parent)
    with large.open("ab") as file:
        file.write(b"more")
    os.utime(large, (10**9, 10**9 + 1))
    assert len({before, written_later, adapter_digest(large.parent)}) == 3


def test_moved_with_its_time_a_large_file_is_the_same(large, tmp_path):
    (tmp_path / "copy").mkdir()
    shutil.copy2(large, tmp_path / "copy")
    assert adapter_digest(tmp_path / "copy") == adapter_digest(large.parent)
