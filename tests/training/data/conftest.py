from __future__ import annotations

import json

import pytest
from documents import BLOCK, EOS, MASK

from fastedit.files.jsonl import BadLines
from fastedit.training.data.documents import Form, tokenise
from fastedit.training.data.texts import read_examples


@pytest.fixture
def write(tmp_path):
    def write_lines(*records, name="data.jsonl"):
        path = tmp_path / name
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return str(path)

    return write_lines


@pytest.fixture
def documents(tiny_tokenizer):
    def build(*sources, policy="stop", max_length=128, **options):
        bad = BadLines(policy)
        examples = read_examples(sources, tiny_tokenizer, bad, **options)
        return tokenise(examples, tiny_tokenizer, bad, Form(BLOCK, max_length, EOS, MASK))

    return build
