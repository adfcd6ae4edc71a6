"""`model.generate(..., custom_generate=fastedit.integrations.transformers.generate)`.

transformers takes an argument out of `generate`'s keywords only when the callable names it and its
own loops do not; `caller` sees the others, `arguments` says what becomes of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from fastedit.config import DecodeConfig
from fastedit.decoder import Decoder
from fastedit.integrations.arguments import DEFAULTS, SAMPLING, fields_given, refuse, spell_out
from fastedit.integrations.caller import pipeline_tokenizer, transformers_call
from fastedit.results import DecodeOutput

_UNSET: Any = object()
# Options with names of their own, and what transformers builds itself from what it was given.
OPTIONS = {
    "mode",
    "threshold",
    "editing_threshold",
    "max_post_steps",
    "num_to_transfer",
    "steps",
    "policy",
    "block_length",
    "mask_token_id",
    "eos_early_stop",
    "strict_reference",
    "lookahead",
    "cuda_graphs",
    "seed",
    "stop",
    "text_tokenizer",
    "prefix_cache",
}


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
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    mode: str | None = None,
    threshold: float = _UNSET,
    editing_threshold: float | None = _UNSET,
    max_post_steps: int = _UNSET,
    num_to_transfer: int = _UNSET,
    steps: int = _UNSET,
    policy: Any = _UNSET,
    block_length: int = _UNSET,
    mask_token_id: int = _UNSET,
    eos_early_stop: bool = _UNSET,
    strict_reference: bool = _UNSET,
    lookahead: bool = _UNSET,
    cuda_graphs: bool = _UNSET,
    seed: int | list[int] | None = None,
    stop: str | list[str] | None = None,
    text_tokenizer: Any = None,
    prefix_cache: bool = True,
    **model_kwargs: Any,
) -> Tensor | GenerateOutput:
    """Decode `input_ids` [B, P] (padded on either side, with an attention mask) by token editing.

    Returns ids [B * n, P + new], prompt included, padded behind each EOS with the pad token; a
    `GenerateOutput` with `return_dict_in_generate`. Length, EOS and pad ids come from the caller,
    else from the model's generation config. Sampling comes from the caller only: `do_sample`,
    temperature, top_k, top_p, and `num_return_sequences` = n rows for each prompt, row j of which
    has the draws of seed + j. The other options are those of `DecodeConfig`. Two carry names of
    their own, since transformers keeps the usual ones to itself: `stop` needs `text_tokenizer`, and
    `prefix_cache=False` is for models that take no Cache. Raises ValueError for every argument of
    transformers that it cannot honour; see `arguments`.
    """
    call = transformers_call(model)
    given = fields_given(generation_config, getattr(model, "generation_config", None))
    if call is not None:  # transformers has counted the prompt in
        given.pop("max_length", None)
        if generation_config.min_new_tokens is not None:
            given.pop("min_length", None)
    sampling = call is not None and call.get("do_sample")  # the checkpoint's own may say so too
    refuse({"do_sample": sampling} | given, set())  # where an option of ours would not arrive
    if call is None:
        repeated = 1
        given |= {"logits_processor": logits_processor, "stopping_criteria": stopping_criteria}
        given |= model_kwargs
    else:
        beams, copies = generation_config.num_beams, generation_config.num_return_sequences
        repeated = max(beams or 1, copies or 1)
        given |= call
    options = {
        "threshold": threshold,
        "editing_threshold": editing_threshold,
        "max_post_steps": max_post_steps,
        "num_to_transfer": num_to_transfer,
        "steps": steps,
        "policy": policy,
        "block_length": block_length,
        "mask_token_id": mask_token_id,
        "eos_early_stop": eos_early_stop,
        "strict_reference": strict_reference,
        "lookahead": lookahead,
        "cuda_graphs": cuda_graphs,
    }
    options = {name: value for name, value in options.items() if value is not _UNSET}
    spell_out(given, options)
    refuse(given, OPTIONS)
    prompts = input_ids[::repeated]
    copies = given.get("num_return_sequences") or 1
    config = DecodeConfig(
        mode=mode,
        seed=_seeds(seed, len(prompts), copies),
        stop=stop,
        use_cache=prefix_cache and given.get("use_cache") is not False,
        max_new_tokens=_new_tokens(given, generation_config, input_ids.shape[1]),
        eos_token_id=_ids(given.get("eos_token_id")),
        **_sampling(given),
        **options,
    )
    tokenizer = pipeline_tokenizer(model) if text_tokenizer is None else text_tokenizer
    mask, streamer = model_kwargs.get("attention_mask"), given.get("streamer")
    out = Decoder(model, tokenizer, config).generate(
        prompts.repeat_interleave(copies, dim=0),
        None if mask is None else mask[::repeated].repeat_interleave(copies, dim=0),
        _Continued(streamer) if streamer is not None and call is not None else streamer,
    )
    check_whole(out)
    width = max(len(ids) for ids in out.sequences)
    pad = _pad_id(generation_config, model, tokenizer)
    new = input_ids.new_full((len(out.sequences), width), pad)
    for row, ids in zip(new, out.sequences, strict=True):
        row[: len(ids)] = ids
    sequences = torch.cat([prompts.repeat_interleave(copies, dim=0), new], dim=1)
    if not getattr(generation_config, "return_dict_in_generate", False):
        return sequences
    rates = [stats.tokens_per_forward for stats in out.stats]
    return GenerateOutput(sequences=sequences, tokens_per_forward=torch.tensor(rates))


def check_whole(out: DecodeOutput) -> None:
    """Raise what ended a request early: a tensor could not tell which rows are whole."""
    if out.interrupted:
        raise KeyboardInterrupt
    error = next((error for error in out.errors if error is not None), None)
    if error is not None:
        raise error


class _Continued:
    """A streamer that has had the prompt from transformers: it is not put again."""

    def __init__(self, streamer: Any) -> None:
        self._streamer, self._has_prompt = streamer, False

    def put(self, value: Tensor) -> None:
        if self._has_prompt:
            self._streamer.put(value)
        self._has_prompt = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streamer, name)


def _new_tokens(given: Mapping[str, Any], config: Any, prompt_length: int) -> int:
    """The caller's length goes before the checkpoint's; without either, transformers' default."""
    most, total = given.get("max_new_tokens"), given.get("max_length")
    if most is None and total is None:
        most = getattr(config, "max_new_tokens", None)
        total = getattr(config, "max_length", None)
    if most is not None:
        return most
    if total is None:
        return DEFAULTS["max_length"]
    if total <= prompt_length:
        raise ValueError(
            f"max_length={total} leaves no room behind a prompt of {prompt_length} tokens: "
            "raise it, or use max_new_tokens"
        )
    return total - prompt_length


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """As transformers samples: what the caller leaves out has its defaults, top_k=50 among them."""
    if not given.get("do_sample"):
        return {}
    values = {name: given.get(name, DEFAULTS[name]) for name in SAMPLING}
    if values["temperature"] is None:
        values["temperature"] = DEFAULTS["temperature"]
    return values


def _seeds(seed: int | list[int] | None, prompts: int, copies: int) -> int | list[int] | None:
    """A seed for every row; the rows of one prompt have draws of their own."""
    if seed is None or copies == 1:
        return seed
    each = [seed] * prompts if isinstance(seed, int) else list(seed)
    if len(each) != prompts:
        raise ValueError(f"seed has {len(each)} entries for {prompts} prompts: give one each")
    return [one + copy for one in each for copy in range(copies)]


def _ids(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _pad_id(generation_config: Any, model: Any, tokenizer: Any) -> int:
    for owner in (generation_config, getattr(model, "config", None), tokenizer):
        for name in ("pad_token_id", "eos_token_id"):
            value = _ids(getattr(owner, name, None))
            if value is not None:
                return value[0] if isinstance(value, (list, tuple)) else int(value)
    return 0
