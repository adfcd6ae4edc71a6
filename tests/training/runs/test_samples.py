"""Example decodes: they show a prompt where there is one, and never end a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("peft")
pytest.importorskip("accelerate")

from fastedit.decoder import Decoder
from fastedit.training.data.documents import Document
from fastedit.training.runs import trainer
from fastedit.training.runs.checkpoints import StepLog, publish
from fastedit.training.runs.run import run
from fastedit.training.runs.samples import Samples
from fastedit.training.runs.settings import RunOptions


@pytest.fixture
def train(tmp_path):
    """Two steps on some lines: (lines of samples.jsonl, remarks)."""

    def train_on(*records, **changes):
        data, output = tmp_path / "data.jsonl", tmp_path / "run"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        values = {
            "checkpoint": "tiny",
            "data": str(data),
            "output": str(output),
            "steps": 2,
            "batch_size": 1,
            "max_length": 64,
            "device": "cpu",
            "eval_every": 1,
            "edit": {"t2t": "none"},
        }
        said = []
        run(RunOptions.from_mapping({**values, **changes}), say=said.append)
        assert (output / "adapter").exists()
        lines = (output / "samples.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], said

    return train_on


def test_text_alone_trains_and_asks_for_nothing(train):
    assert train({"text": "one two three"}, {"text": "four"})[0] == []


def test_the_first_prompt_among_texts_is_decoded(train):
    samples, said = train({"text": "one"}, {"prompt": "5?", "completion": "8"})
    assert [(sample["step"], sample["expected"]) for sample in samples] == [(1, "8"), (2, "8")]
    assert not any("cannot be decoded" in line for line in said)


def test_of_a_chat_the_first_answer_is_expected(train):
    chat = [("user", "5?"), ("assistant", "8"), ("user", "1?"), ("assistant", "23")]
    messages = [{"role": role, "content": content} for role, content in chat]
    assert [sample["expected"] for sample in train({"messages": messages})[0]] == ["8", "8"]


@pytest.mark.parametrize(("answer", "tokens"), [(1, 16), (16, 16), (17, 32), (400, 256)])
def test_the_blocks_of_the_first_answer_are_decoded(answer, tokens, tiny_tokenizer, tmp_path):
    """Of the model's size, whatever comes behind the answer."""
    response = np.array([False] * 3 + [True] * answer + [False] * 2 + [True] * 50)
    document = Document(0, np.full(len(response), 5, dtype=np.int32), response)
    log = StepLog(tmp_path / "samples.jsonl")
    config = Samples(document, tiny_tokenizer, log, 1, 16, 1, print, print).config
    assert (config.block_length, config.max_new_tokens) == (16, tokens)


def test_a_prompt_near_the_last_position(train, tiny_model, tiny_tokenizer):
    """1020 of the model's 1024 positions: 4 are left, though an answer is a block or more."""
    positions = tiny_model.config.max_position_embeddings
    frame = len(tiny_tokenizer.apply_chat_template([{"role": "user", "content": ""}],
        add_generation_prompt=True, tokenize=True, return_dict=False))  # fmt: skip
    line = {"prompt": "5" * (positions - 4 - frame), "completion": "8" * 9}
    samples, said = train(line, max_length=positions, steps=1)
    assert len(samples) == 1 and not any("cannot be decoded" in remark for remark in said)


def test_a_decode_that_fails_is_said_once_and_ends_nothing(train, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no such\nthing")

    monkeypatch.setattr(Decoder, "generate", fail)
    samples, said = train({"prompt": "5?", "completion": "8"})
    assert [sample["text"] for sample in samples] == ["(no such\nthing)"] * 2
    assert [line for line in said if "decoded" in line] == [
        "the example cannot be decoded: no such thing"
    ]


def test_every_log_is_on_the_disk_before_the_checkpoint(train, monkeypatch):
    events = []
    flush = StepLog.flush
    monkeypatch.setattr(StepLog, "flush", lambda log: (events.append(log.path.name), flush(log)))
    monkeypatch.setattr(
        trainer, "publish", lambda *folders: (events.append("publish"), publish(*folders))
    )
    train({"prompt": "5?", "completion": "8"})
    before = events[: events.index("publish")]
    assert set(before) == {"metrics.jsonl", "validation.jsonl", "samples.jsonl"}
