"""The golden models of other families, and what each of their cases asks of a Decoder."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file

from fastedit import DecodeConfig, policies
from fastedit.models import Family

FOLDER = Path(__file__).parents[1] / "golden" / "families"
RANKS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
AFTER = {"attention": "full", "blocks": "after_prompt"}
FAMILIES = {
    "llada": Family(**AFTER, mask_token_id=191),
    "llada_moe": Family(**AFTER, mask_token_id=159),
    "dream": Family(**AFTER, mask_token_id=159, shift=1),
    "sdar": Family(mask_token_id=175),
}
CLASSES = {"llada": "Llama", "llada_moe": "Qwen3Moe", "dream": "Qwen2", "sdar": "Qwen3"}
# What LLaDA calls Llama's sizes and tensors; the order matters.
LLADA_SIZES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "mlp_hidden_size": "intermediate_size",
    "embedding_size": "vocab_size",
    "max_sequence_length": "max_position_embeddings",
}
LLADA_NAMES = {
    r"model\.transformer\.wte": "model.embed_tokens",
    r"model\.transformer\.ln_f": "model.norm",
    r"model\.transformer\.ff_out": "lm_head",
    r"model\.transformer\.blocks": "model.layers",
    r"\.attn_norm": ".input_layernorm",
    r"\.ff_norm": ".post_attention_layernorm",
    r"\.([qkv]_proj)": r".self_attn.\1",
    r"\.attn_out": ".self_attn.o_proj",
    r"\.ff_proj": ".mlp.gate_proj",
    r"\.up_proj": ".mlp.up_proj",
    r"\.ff_out": ".mlp.down_proj",
}


@cache
def model_of(name: str) -> Any:
    """The class of transformers that computes the same, with the family's weights."""
    folder, kind = FOLDER / name, CLASSES[name]
    sizes = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    if name == "llada":
        sizes |= {theirs: sizes[ours] for ours, theirs in LLADA_SIZES.items()}
        for old, new in LLADA_NAMES.items():
            weights = {re.sub(old, new, key): value for key, value in weights.items()}
    if name == "llada_moe":
        experts = {"moe_intermediate_size": sizes["expert_intermediate_size"]}
        experts |= {"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}
        sizes |= experts | {"decoder_sparse_step": 1, "norm_topk_prob": False}
    for key in ("model_type", "architectures", "auto_map", "torch_dtype", "attn_implementation"):
        sizes.pop(key, None)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForCausalLM")
    return model.from_pretrained(None, config=config, state_dict=weights, dtype="float32").eval()


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
