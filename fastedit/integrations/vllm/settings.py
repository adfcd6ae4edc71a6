"""What a request may ask for in `extra_args`, checked where it comes in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

from fastedit.aliases import ALIASES
from fastedit.config import DecodeConfig
from fastedit.models.families import family_of
from fastedit.policies import Policy
from fastedit.request.settled import Settled

TAKEN = (
    "policy",
    "mode",
    "threshold",
    "editing_threshold",
    "max_post_steps",
    "num_to_transfer",
    "steps",
    "block_length",
    "strict_reference",
    "temperature",
    "top_p",
    "top_k",
    "seed",
)
# What vLLM, or its server, puts beside them.
OTHERS = ("kv_transfer_params", "ec_transfer_params")
# What vLLM has a name of its own for, or what holds for a whole engine.
ELSEWHERE = {
    "max_new_tokens": "give max_tokens to vLLM",
    "stop": "give stop to vLLM",
    "eos_token_id": "give stop_token_ids to vLLM",
    "eos_early_stop": "give ignore_eos to vLLM",
    "mask_token_id": "start vLLM with --hf-overrides '{\"mask_token_id\": ...}'",
    "cache": "vLLM's own cache is used, which is exact",
    "lookahead": "a forward of vLLM has one block",
    "cuda_graphs": "start vLLM with --enforce-eager",
}
# Sampling parameters of vLLM that decide on tokens from left to right, and what leaves them out.
LEFT_TO_RIGHT: dict[str, tuple[object, ...]] = {
    "top_p": (1.0,),
    "top_k": (0, -1),
    "repetition_penalty": (1.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "logprobs": (None,),
    "prompt_logprobs": (None,),
    "logprob_token_ids": (None, []),
}
IN_EXTRA_ARGS = ("top_p", "top_k")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request asked for, with what the model has where it asked for nothing."""

    config: DecodeConfig
    policy: Policy


class Settings:
    """Settings of requests to one model."""

    def __init__(self, model_config: Any) -> None:
        self.config, self._model_config = model_config.hf_config, model_config
        self.family = family_of(self)
        self._settled: Settled | None = None
        self._known: dict[str, Asked] = {}

    @property
    def settled(self) -> Settled:
        """Made when it is first asked for: a tokenizer may take long to load."""
        if self._settled is None:
            from vllm.tokenizers.registry import cached_tokenizer_from_config

            tokenizer = cached_tokenizer_from_config(self._model_config)
            self._settled = Settled(self, tokenizer, self.family)
        return self._settled

    @property
    def mask_token_id(self) -> int:
        """Raises ValueError where neither the config nor the tokenizer names it."""
        return self.settled.rule_and_mask(DecodeConfig())[1]

    def asked(self, extra_args: Mapping[str, Any] | None) -> Asked:
        """Raises ValueError for what is unknown, out of range, or cannot be done inside vLLM."""
        given = {k: v for k, v in (extra_args or {}).items() if k not in OTHERS}
        key = json.dumps(given, sort_keys=True, default=repr)
        if key not in self._known:
            if len(self._known) >= 256:
                del self._known[next(iter(self._known))]
            self._known[key] = self._read(given)
        return self._known[key]

    def _read(self, given: dict[str, Any]) -> Asked:
        for name in given:
            field = ALIASES.get(name, name)
            if field in ELSEWHERE:
                raise ValueError(f"extra_args {name}={given[name]!r}: {ELSEWHERE[field]}")
            if field not in TAKEN:
                raise ValueError(f"extra_args has no {name!r}; known: {', '.join(TAKEN)}")
            if isinstance(given[name], (list, dict)):
                raise ValueError(
                    f"extra_args {name}={given[name]!r} must be one number, text or truth value"
                )
        given = {name: _value(name, value) for name, value in given.items()}
        config = DecodeConfig(**given)
        length = self.config.canvas_length
        if config.gives("block_length") and config.block_length != length:
            raise ValueError(
                f"block_length={config.block_length}: this engine decodes blocks of {length}; "
                f"start one with --hf-overrides '{{\"block_size\": {config.block_length}}}'"
            )
        policy, _ = self.settled.rule_and_mask(config)
        needs = policy.needs & {"score", "next_token"}
        if policy.plan != "block" or needs or policy.wide or policy.variable:
            raise ValueError(
                f"policy {policy} cannot run inside vLLM, whose forwards have the logits of one "
                "block: use fastedit.Decoder"
            )
        return Asked(config, policy)


class RequestSettings(LogitsProcessor):
    """Refuses a request before it is let in; vLLM asks its logits processors. It changes none."""

    served: ClassVar[Settings | None] = None

    @classmethod
    def serve(cls, model_config: Any) -> None:
        """Check requests for this model from now on."""
        cls.served = Settings(model_config)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which is a 400 of vLLM's server."""
        for name, neutral in LEFT_TO_RIGHT.items():
            value = getattr(sampling_params, name, neutral[0])
            if value not in neutral:
                remedy = "give it in extra_args" if name in IN_EXTRA_ARGS else "leave it out"
                raise ValueError(
                    f"{name}={value!r} is for models that decode from left to right: {remedy}"
                )
        if cls.served is not None:
            cls.served.asked(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return False

    def apply(self, logits: Any, ctx: Any) -> Any:
        return logits


def _value(name: str, value: Any) -> Any:
    """As `DecodeConfig` takes it: the server has texts and numbers only."""
    if value == "none":
        return None
    if name == "strict_reference" and value in (0, 1):
        return bool(value)
    return value
