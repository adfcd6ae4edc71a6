"""The golden models of other families, and what each of their cases asks of a Decoder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fastedit import DecodeConfig, Decoder, policies

FOLDER = Path(__file__).parents[1] / "golden" / "families"
RANKS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


@cache
def loaded(name: str) -> Decoder:
    """The checkpoint as it stands on the Hub."""
    return Decoder.from_pretrained(FOLDER / name, device="cpu")


@cache
def cases(name: str, loop: str) -> list[dict[str, Any]]:
    """Cases of one released loop that its policy can express."""
    lines = (FOLDER / name / "cases.jsonl").read_text().splitlines()
    unlike = {"cfg_scale", "top_p", "top_k", "stop_ids"}
    found = [case for case in map(json.loads, lines) if case["loop"] == loop]
    return [case for case in found if not unlike & case["params"].keys()]


@cache
def batches(name: str) -> list[dict[str, Any]]:
    lines = (FOLDER / name / "batch.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def config_of(case: dict[str, Any], **options: Any) -> DecodeConfig:
    """A case's loop as a config; no EOS ends it."""
    return DecodeConfig(eos_token_id=[], **LOOPS[case["loop"]](case), **options)


def llada(case: dict[str, Any]) -> dict[str, Any]:
    steps = _steps_per_block(case["params"])
    return _blocks(case) | {"policy": policies.LowConfidence(threshold=1.0, steps=steps)}


def fast_dllm(case: dict[str, Any]) -> dict[str, Any]:
    params = case["params"]
    if "factor" in params:
        rule = policies.Confidence(rule="factor", factor=params["factor"], quirk=True)
    elif "threshold" in params:
        rule = policies.Confidence(threshold=params["threshold"])
    else:
        rule = policies.Confidence(rule="schedule", steps=_steps_per_block(params))
    return _blocks(case) | {"policy": rule}


def dream(case: dict[str, Any]) -> dict[str, Any]:
    params = case["params"]
    options = {"rank": RANKS[params["alg"]], "steps": params["steps"], "eps": params["eps"]}
    new = params["max_new_tokens"]
    rule = policies.LowConfidence(schedule="dream", **options)
    return {"policy": rule, "block_length": new, "max_new_tokens": new}


def sdar_eval(case: dict[str, Any]) -> dict[str, Any]:
    """Its canvas ends with a whole block."""
    params, length = case["params"], case["params"]["block_length"]
    rule = policies.LowConfidence(threshold=params["threshold"], steps=params["denoising_steps"])
    prompt = len(case["prompt"])
    end = -(-(prompt + params["gen_length"]) // length) * length
    return {"policy": rule, "block_length": length, "max_new_tokens": end - prompt}


LOOPS = {"llada": llada, "fast_dllm": fast_dllm, "dream": dream, "sdar_eval": sdar_eval}


def _blocks(case: dict[str, Any]) -> dict[str, Any]:
    params = case["params"]
    return {"block_length": params["block_length"], "max_new_tokens": params["gen_length"]}


def _steps_per_block(params: dict[str, Any]) -> int:
    """The released `steps` are of all blocks together."""
    return params["steps"] * params["block_length"] // params["gen_length"]
