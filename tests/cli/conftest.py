"""A tiny random checkpoint with a byte-level tokenizer and a chat template, on disk."""

from __future__ import annotations

import json

import pytest
from batch_files import LENGTH

TEMPLATE = (
    "{% for m in messages %}<|role|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """Folder of a model of 2 layers; its wide random weights make confident drafts and edits."""
    import torch

    from fastedit.models.llada2 import LLaDA2MoeConfig, LLaDA2MoeModelLM

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LLaDA2MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        max_position_embeddings=512,
        initializer_range=0.6,
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LLaDA2MoeModelLM(config).save_pretrained(folder)
    return str(folder)


def byte_tokenizer():
    """One token per byte, then the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="<|mask|>",
        eos_token="<|role_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|role|>"],
        chat_template=TEMPLATE,
    )


@pytest.fixture
def run(capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    from fastedit.cli import main

    def run_main(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


@pytest.fixture(scope="session")
def decoder(checkpoint):
    from fastedit import Decoder

    return Decoder.from_pretrained(checkpoint)


@pytest.fixture
def decode(run, checkpoint, tmp_path):
    """Writes the input lines, runs the command: (exit code, stderr); files are f and g.jsonl."""

    def decode(lines, *arguments):
        text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
        (tmp_path / "f.jsonl").write_text(text, encoding="utf-8")
        code, out, err = run(
            "generate", "--checkpoint", checkpoint, "--max-new-tokens", LENGTH,
            "--input", tmp_path / "f.jsonl", "--output", tmp_path / "g.jsonl", *arguments,
        )  # fmt: skip
        assert out == ""
        return code, err

    return decode


@pytest.fixture
def results(tmp_path):
    def read():
        lines = (tmp_path / "g.jsonl").read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        return [json.loads(line) for line in lines]

    return read
