"""The bases of the study of edits at toy size: they learn, decode, and have tokens that edit."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

pytest.importorskip("reasoning_gym")
pytest.importorskip("accelerate")

from fastedit import Decoder
from fastedit.tasks import get_task
from recipes.edits.model import DEL, DELETE, INSERT
from recipes.edits.recipe import BASES, LENGTH, PHRASES, TASKS, base, build_start, make
from recipes.tiny.tokenizer import PAD, character_tokenizer

SMALL = {
    "data": tuple(f"task:{task},examples=12" for task in TASKS),
    "batch_size": 4,
    "eval_examples": 0,
    "device": "cpu",
}


@pytest.mark.parametrize("kind", BASES)
def test_a_base_learns_and_decodes(kind, tmp_path):
    options = replace(base(kind, tmp_path / kind, 12, seed=0), **SMALL)
    build_start(kind, tmp_path / kind / "start", seed=0, width=32)
    folder = make(kind, options, resume=False)
    lines = (tmp_path / kind / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0]
    decoder = Decoder.from_pretrained(folder, device="cpu")
    ids = decoder.tokenizer.convert_tokens_to_ids([DELETE, INSERT, DEL, PAD])
    assert decoder.tokenizer.pad_token_id == ids[3] != decoder.tokenizer.eos_token_id
    policy = {"block_causal": "joint_threshold_indel", "full_attention": "low_confidence"}[kind]
    decoder.generate([[{"role": "user", "content": "a"}]], policy=policy, max_new_tokens=8)
    config = decoder.model.config
    if kind == "block_causal":
        assert [config.delete_token_id, config.split_token_id] == ids[:2]
    else:
        assert config.delete_token_id == ids[2]
    with pytest.raises(FileExistsError, match="--resume"):
        make(kind, options, resume=False)


def test_tokens_are_characters_and_every_problem_ends_in_the_second_block():
    tokenizer = character_tokenizer(PHRASES, control=(PAD,))
    for text in ("zażółć 日本語 \t x²\r\n", "Repair this text: abc, d", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("Repair this text: abc, d")["input_ids"]) == 1 + 3 + 1 + 1
    for name in TASKS:
        task = get_task(name)
        for problem in itertools.islice(task.training(seed=9), 300):
            chat = task.messages(problem.question)
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            assert len(ids) + len(tokenizer(problem.solution)["input_ids"]) < LENGTH
