"""The golden checkpoint of each family, and which forwards its released code made of it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fastedit import Decoder

GOLDEN = Path(__file__).parents[1] / "golden" / "families"
FAMILIES = ("llada", "dream", "sdar", "llada_moe", "fast_dllm_v2")
# What the tiny checkpoints leave open: the mask of one is not in its config.
OPTIONS = {"fast_dllm_v2": {"mask_token_id": 175}}


@functools.cache
def decoder(family: str) -> Decoder:
    return Decoder.from_pretrained(GOLDEN / family, device="cpu")


def forwards(family: str) -> dict[str, tuple[dict[str, Any], Tensor, Tensor]]:
    """By name: arguments of a forward, the logits that the released code gave, and where they
    mean something (bool [B, T])."""
    stored = load_file(GOLDEN / family / "forward.safetensors")
    ids = stored["input_ids"]
    found = {}
    for name, logits in stored.items():
        arguments: dict[str, Any] = {"input_ids": ids}
        counted = torch.ones_like(ids, dtype=torch.bool)
        if name == "padded_logits":
            arguments = {"input_ids": stored["padded_input_ids"]}
            arguments["attention_mask"] = stored["padded_attention_mask"]
            if "padded_position_ids" in stored:
                arguments["position_ids"] = stored["padded_position_ids"]
            counted = stored["padded_attention_mask"] == 1
        elif name.startswith("logits_block"):
            block = torch.arange(ids.shape[1]) // int(name.removeprefix("logits_block"))
            arguments["attention_mask"] = (block <= block[:, None])[None, None]
        elif name == "logits_full":
            square = (1, 1, ids.shape[1], ids.shape[1])
            arguments["attention_mask"] = torch.ones(square, dtype=torch.bool)
        elif name != "logits":
            continue
        found[name] = arguments, logits, counted
    return found


def config_of(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / family / "config.json").read_text())
