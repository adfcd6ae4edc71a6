"""`model.generate(..., custom_generate=fastedit.integrations.transformers.generate)`.

transformers takes an argument out of `generate`'s keywords only when the callable names it, and it
hands no streamer to a callable; stream through `Decoder`, `fastedit.patch` or our own models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import (
    EosTokenCriteria,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import ModelOutput

from fastedit.decoding import DecodeConfig, Decoder

_UNSET: Any = object()
# Covered by the decoder itself, from the same generation config.
_OWN_PROCESSORS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
_OWN_CRITERIA = (MaxLengthCriteria, EosTokenCriteria)


@dataclass
class GenerateOutput(ModelOutput):
    """Fields as in transformers' DiffusionGemma output; the last four are unused.

    sequences [B, P + n] int64, prompt included; tokens_per_forward [B] fp32.
    """

    sequences: Tensor | None = None
    tokens_per_forward: Tensor | None = None
    past_key_values: None = None
    logits: None = None
    scores: None = None
    hidden_states: None = None


def generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: Any = None,
    mode: str | None = None,
    threshold: float = _UNSET,
    editing_threshold: float | None = _UNSET,
    max_post_steps: int = _UNSET,
    num_to_transfer: int = _UNSET,
    block_length: int = _UNSET,
    mask_token_id: int = _UNSET,
    eos_early_stop: bool = _UNSET,
    strict_reference: bool = _UNSET,
    seed: int | list[int] | None = None,
    stop: str | list[str] | None = None,
    text_tokenizer: Any = None,
    prefix_cache: bool = True,
    **model_kwargs: Any,
) -> Tensor | GenerateOutput:
    """Decode `input_ids` [B, P] (padded on either side, with an attention mask) by token editing.

    Returns ids [B, P + n], prompt included, padded behind each EOS with the pad token; a
    `GenerateOutput` with `return_dict_in_generate`. Length, EOS and, under `do_sample`,
    temperature, top_k and top_p come from the generation config; the other options are those of
    `DecodeConfig`. Two carry names of their own, since transformers keeps the usual ones to itself:
    `stop` needs `text_tokenizer`, and `prefix_cache=False` is for models that take no Cache. Raises
    ValueError for logits processors and stopping criteria that need a left-to-right loop.
    """
    _refuse("logits processor", logits_processor, _OWN_PROCESSORS)
    _refuse("stopping criterion", stopping_criteria, _OWN_CRITERIA)
    given = {
        "threshold": threshold,
        "editing_threshold": editing_threshold,
        "max_post_steps": max_post_steps,
        "num_to_transfer": num_to_transfer,
        "block_length": block_length,
        "mask_token_id": mask_token_id,
        "eos_early_stop": eos_early_stop,
        "strict_reference": strict_reference,
    }
    config = DecodeConfig(
        mode=mode,
        seed=seed,
        stop=stop,
        use_cache=prefix_cache,
        **{name: value for name, value in given.items() if value is not _UNSET},
        **_from_generation_config(generation_config, input_ids.shape[1]),
    )
    out = Decoder(model, text_tokenizer, config).generate(
        input_ids, model_kwargs.get("attention_mask")
    )
    if out.interrupted:  # a tensor could not tell which rows are whole
        raise KeyboardInterrupt
    error = next((error for error in out.errors if error is not None), None)
    if error is not None:
        raise error
    width = max(len(ids) for ids in out.sequences)
    new = input_ids.new_full((len(out.sequences), width), _pad_id(generation_config, model))
    for row, ids in zip(new, out.sequences, strict=True):
        row[: len(ids)] = ids
    sequences = torch.cat([input_ids, new], dim=1)
    if not getattr(generation_config, "return_dict_in_generate", False):
        return sequences
    rates = [stats.tokens_per_forward for stats in out.stats]
    return GenerateOutput(sequences=sequences, tokens_per_forward=torch.tensor(rates))


def _from_generation_config(config: Any, prompt_length: int) -> dict[str, Any]:
    """The options of `DecodeConfig` that transformers' own configuration sets."""
    if config is None:
        return {}
    options: dict[str, Any] = {"eos_token_id": config.eos_token_id}
    if config.max_new_tokens is not None:
        options["max_new_tokens"] = config.max_new_tokens
    elif config.max_length is not None:
        options["max_new_tokens"] = max(config.max_length - prompt_length, 0)
    if config.do_sample:
        options["temperature"] = 1.0 if config.temperature is None else config.temperature
        options |= {"top_p": config.top_p, "top_k": config.top_k}
    return options


def _pad_id(generation_config: Any, model: Any) -> int:
    for owner in (generation_config, getattr(model, "config", None)):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(owner, name, None)
            if value is not None:
                return value[0] if isinstance(value, (list, tuple)) else int(value)
    return 0


def _refuse(what: str, given: Any, own: tuple[type, ...]) -> None:
    for item in given or ():
        if not isinstance(item, own):
            raise ValueError(
                f"the {what} {type(item).__name__} needs a left-to-right loop; remove it, token "
                "editing decides whole blocks"
            )
