"""Golden cases of the decoding rules, and what each of them asks of a policy and a Decoder."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden" / "policies"
RANKS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


@cache
def cases(name: str) -> list[dict[str, Any]]:
    """Every case of one file, in order."""
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def up_to(ids: list[int], eos: int | None) -> list[int]:
    """The ids up to and including the first EOS."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids


def joint_threshold(params: dict[str, Any]) -> dict[str, Any]:
    names = ("threshold", "editing_threshold", "max_post_steps", "num_to_transfer")
    return {name: params[name] for name in names}


def remask(params: dict[str, Any]) -> dict[str, Any]:
    names = ("threshold", "max_post_steps", "num_to_transfer")
    return {name: params[name] for name in names} | {
        "trigger": params["trigger"].removesuffix("_remask"),
        "tau": params["remask_threshold"],
        "cap": params["max_remask_per_pos"],
        "share": params["max_remask_ratio"],
    }


def low_confidence(params: dict[str, Any]) -> dict[str, Any]:
    """SGLang's loop has no steps; the other's are fewer where `minimal_topk` says so."""
    steps = params.get("steps")
    if steps is not None:
        steps = min(steps, params["gen_length"] // params["minimal_topk"])
    return {"threshold": params["threshold"], "steps": steps}


def fast_dllm(params: dict[str, Any]) -> dict[str, Any]:
    """Its `steps` are those of all blocks together."""
    options = {"rule": params["rule"], "quirk": True}
    if params["rule"] == "schedule":
        return options | {"steps": params["steps"] * params["block_length"] // params["gen_length"]}
    return options | {params["rule"]: params[params["rule"]]}


def ranking(params: dict[str, Any]) -> dict[str, Any]:
    return {"threshold": 1.0, "rank": params["rank"], "steps": params["steps"]}


def dream(params: dict[str, Any]) -> dict[str, Any]:
    options = {"steps": params["steps"], "eps": params["eps"]}
    return options | {"schedule": "dream", "rank": RANKS[params["alg"]]}


def entropy_bound(params: dict[str, Any]) -> dict[str, Any]:
    names = {"bound": "entropy_bound", "steps": "num_inference_steps"}
    options = {ours: params[theirs] for ours, theirs in names.items()}
    return options | {"t_min": params["t_min"], "t_max": params["t_max"]}


def self_correction(params: dict[str, Any]) -> dict[str, Any]:
    """`t0` is the time that GIDD's model is told; ours are told none."""
    names = ("temperature", "k", "patience", "max_steps")
    return {name: params[name] for name in names} | {"greedy": params["mode"] == "greedy"}


def wino(params: dict[str, Any]) -> dict[str, Any]:
    return {"threshold": params["threshold"], "verify_threshold": params["threshold_back"]}


def saber(params: dict[str, Any]) -> dict[str, Any]:
    return {"least": params["n"]}


def proseco(params: dict[str, Any]) -> dict[str, Any]:
    """Their steps are of all blocks together."""
    blocks = params["gen_length"] // params["block_length"]
    return {
        "every": params["apply_corrector_every_n_steps"],
        "passes": params["max_corrector_steps_per_loop"],
        "threshold": params["threshold"],
        "steps": params["steps"] // blocks,
        "scope": "generated",
    }


def correction(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in ("steps", "stride", "tau", "budget", "ring")}


def inputs(case: dict[str, Any], corrector: bool = True) -> list[list[int]]:
    """Ids of the generated positions per forward; of all, or without the corrector's, which are
    told by a 1 in front."""
    length = case["params"]["gen_length"]
    chosen = [ids for ids in case["inputs"] if corrector or ids[:-length] != [1]]
    return [ids[-length:] for ids in chosen]
