"""The golden models of other families with a tokenizer, which their folders do not have."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from golden_families import FOLDER, loaded

from fastedit import DecodeConfig, Decoder

NAMES = ("llada", "llada_moe", "dream", "sdar", "fast_dllm_v2")
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@functools.cache
def decoder(name: str, released: bool = False) -> Decoder:
    """The checkpoint with a tokenizer; its config names the mask where no file does.

    Blocks of 32 are shorter, for the sake of time, unless it is to be as `released`.
    """
    given = {"mask_token_id": mask_of(name)} if name == "fast_dllm_v2" else {}
    if name in ("llada", "llada_moe", "fast_dllm_v2") and not released:
        given["block_length"] = 8
    return Decoder(loaded(name).model, tokenizer(name), DecodeConfig(**given))


def config(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "config.json").read_text())


def vocab_of(name: str) -> int:
    return config(name).get("embedding_size") or config(name)["vocab_size"]


def mask_of(name: str) -> int:
    return config(name).get("mask_token_id", vocab_of(name) - 1)


@functools.cache
def tokenizer(name: str) -> Any:
    """A token per byte, ASCII first, as far as the vocabulary goes; special ids are the model's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(
        pre_tokenizers.ByteLevel.alphabet(), key=lambda x: (x > "~" and x not in "ĠĊ", x)
    )
    special = {config(name)["eos_token_id"]: "<eos>", mask_of(name): "<|mask|>"}
    remaining = iter(letters)
    names = [special.get(i) or next(remaining) for i in range(vocab_of(name))]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<eos>",
        mask_token="<|mask|>",
        chat_template=TEMPLATE,
    )


def copied(name: str, folder: Path) -> Path:
    """The checkpoint with its tokenizer, in a folder of its own."""
    target = folder / name
    target.mkdir()
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        if (FOLDER / name / file).exists():
            shutil.copy(FOLDER / name / file, target)
    tokenizer(name).save_pretrained(target)
    return target
