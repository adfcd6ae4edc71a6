"""What a call of DiffusionGemma's `generate` asks for: its own fields, and those of configs."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion, DiffusionGemmaGenerationConfig

from fastedit import policies
from fastedit.policies import EntropyBound
from fastedit.policies.registry import given_in

# The parameters of the policy, by transformers' names.
PARAMETERS = {
    "t_min": "t_min",
    "t_max": "t_max",
    "max_denoising_steps": "steps",
    "stability_threshold": "stability",
    "confidence_threshold": "confidence",
    "sampler_config": "bound",
}
OTHERS = {
    *("max_new_tokens", "max_length", "eos_token_id", "pad_token_id", "return_dict_in_generate"),
    *("bos_token_id", "disable_compile", "transformers_version"),  # without an effect
}
# What a processor returns beside ids; the encoder takes it with the prompt.
IMAGES = ("pixel_values", "image_position_ids", "mm_token_type_ids")
UNSET_LENGTH = 256  # new tokens that transformers takes for not given, where there is a max_length


def settings_of(model: Any, config: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is given, then fields of the caller's config, of the model's, and the defaults.

    Raises TypeError for another model, ValueError for a name that is given and not known.
    """
    if not isinstance(model, DiffusionGemmaForBlockDiffusion):
        raise TypeError(
            f"model must be a DiffusionGemmaForBlockDiffusion, got {type(model).__name__}: other "
            "models decode by fastedit.Decoder"
        )
    known = {*PARAMETERS, *OTHERS, *IMAGES}
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"{name}={value!r:.80} cannot be honoured: DiffusionGemma decodes here by policy, "
                f"seed, streamer, cache, generation_config, {', '.join(sorted(known))}"
            )
    defaults = DiffusionGemmaGenerationConfig._get_default_generation_params()
    configs = [vars(each) for each in (config, model.generation_config) if each is not None]
    layers = [{k: v for k, v in each.items() if v is not None} for each in (*configs, defaults)]
    return ChainMap(dict(given), *layers)


def chosen_policy(
    policy: EntropyBound | str, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> EntropyBound:
    """What `policy` says, and the settings where its text is silent. Raises ValueError."""
    rule = policies.parse(policy) if isinstance(policy, str) else policy
    if not isinstance(rule, EntropyBound):
        raise ValueError(
            f"DiffusionGemma decodes by entropy_bound, not by policy {policy}: it was trained on "
            "canvases of random tokens, without a mask"
        )
    said = given_in(policy) if isinstance(policy, str) else list(rule.parameters())
    for theirs, ours in PARAMETERS.items():
        if ours in said and theirs in given:
            raise ValueError(f"{theirs}={given[theirs]} and policy={policy}: give one of them")
    found = {ours: settings[theirs] for theirs, ours in PARAMETERS.items() if ours not in said}
    if "bound" in found:
        found["bound"] = found["bound"].entropy_bound
    rule = replace(rule, **found)
    if rule.t_max == 0.0:
        raise ValueError("t_max must be more than 0, as logits are divided by it; got 0.0")
    return rule


def new_tokens(settings: Mapping[str, Any], length: int) -> int:
    """As transformers reads the two lengths, behind `length` tokens. Raises ValueError."""
    most, total = settings["max_new_tokens"], settings.get("max_length")
    if total is not None and most in (None, UNSET_LENGTH):
        most = total - length
    if not isinstance(most, int) or most < 1:
        raise ValueError(
            f"max_new_tokens={most!r} must be at least 1, and max_length={total} more than the "
            f"{length} tokens that are there"
        )
    return most


def seeds_of(seed: int | Sequence[int] | None, rows: int) -> Tensor:
    """A seed for each row, int64 [rows]. Raises ValueError."""
    if seed is None:
        return torch.randint(2**63 - 1, (rows,))
    each = [seed] * rows if isinstance(seed, int) else list(seed)
    if len(each) != rows:
        raise ValueError(f"seed has {len(each)} entries for {rows} prompts: give one each")
    return torch.tensor([(one + 2**63) % 2**64 - 2**63 for one in each])  # as signed 64 bits
