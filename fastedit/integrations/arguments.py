"""Every argument of transformers' generation is honoured, neutral, or refused by name.

What is not listed here as honoured is refused, unless its value is one that changes nothing: a
field that a newer transformers adds cannot vanish. Only what the caller gives counts: values of the
checkpoint's own generation config are never refused, and never used except for its EOS and pad ids
and its lengths.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerationMixin

from fastedit.aliases import ALIASES

SAMPLING = ("temperature", "top_k", "top_p")
HONOURED = {
    # keywords of `generate`
    "inputs",
    "input_ids",
    "attention_mask",
    "generation_config",
    "custom_generate",
    "streamer",
    "tokenizer",
    # fields of GenerationConfig
    "max_new_tokens",
    "max_length",
    "do_sample",
    *SAMPLING,
    "num_return_sequences",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "stop_strings",
    "return_dict_in_generate",
}
# Of no effect on the tokens, whatever the value: nothing is compiled, and a mere note.
INERT = {"disable_compile", "transformers_version"}
DEFAULTS = {**vars(GenerationConfig()), **GenerationConfig._get_default_generation_params()}
FIELDS = {name for name in DEFAULTS if not name.startswith("_")}
KEYWORDS = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
# Values that change nothing, besides None, False, nothing at all, and the default.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (1, 1.0),
    "min_new_tokens": (0,),
    "min_p": (0.0,),
    "prompt_lookup_num_tokens": (0,),
    "temperature": (0.0,),
    "top_k": (0,),
    "top_h": (1.0,),
}
_ONE_BY_ONE = "remove it: token editing decides whole blocks, not one token after the other"
_REMEDIES = {
    "num_beams": "use num_beams=1: there are no beams in a block that is decided at once",
    "assistant_model": "remove it: fastedit drafts and verifies with the model itself",
    "past_key_values": "remove it and give the whole prompt as input_ids",
    "cache": "remove it and give the whole prompt as input_ids",
    "cache_implementation": "remove it: fastedit keeps a cache of its own (use_cache=False: none)",
    "inputs_embeds": "give the prompt as input_ids",
    "position_ids": "remove it: positions follow from the attention mask",
    "token_type_ids": "remove it: the model knows one type of token",
    "max_time": "lower max_new_tokens, or leave the loop of `Decoder.stream` when it is time",
    "stopping_criteria": "use max_new_tokens, eos_token_id, or stop with text_tokenizer",
    "output_scores": "remove it; `Decoder.stream(drafts=True)` shows every step of a block",
    "output_logits": "remove it; `Decoder.stream(drafts=True)` shows every step of a block",
    "trust_remote_code": "remove it: no remote code is run",
}


def refuse(given: Mapping[str, Any], options: set[str]) -> None:
    """Raise ValueError for the first argument that cannot be honoured.

    given: what the caller gave, by name; options: names that are ours.
    """
    for name, value in given.items():
        if name not in HONOURED | options | INERT and not neutral(name, value, given):
            raise _refusal(name, value, _remedy(name))
    sampling = bool(given.get("do_sample"))
    for name in (*SAMPLING, "num_return_sequences"):
        if not sampling and name in given and not neutral(name, given[name], given):
            raise _refusal(name, given[name], "add do_sample=True, without which it has no effect")
    if given.get("stop_strings") and not (given.get("tokenizer") or given.get("text_tokenizer")):
        raise _refusal("stop_strings", given["stop_strings"], "give the tokenizer as well")
    if given.get("max_length") is not None and given.get("max_new_tokens") is not None:
        raise _refusal(
            "max_length", given["max_length"], "give max_new_tokens or max_length, not both"
        )


def spell_out(given: dict[str, Any], options: dict[str, Any]) -> None:
    """Give what is there under an alias its name: in `given` what transformers knows, of which None
    is as if it were not there, else in `options`. Raises ValueError where both are there and
    differ."""
    for alias in [name for name in given if name in ALIASES]:
        name, value = ALIASES[alias], given.pop(alias)
        theirs = name in HONOURED
        place = given if theirs else options
        if theirs and value is None:
            continue
        if name not in place or (theirs and place[name] is None):
            place[name] = value
        elif not same(place[name], value):
            raise _refusal(alias, value, f"{name}={_said(place[name])} is given as well")


def check_values(given: Mapping[str, Any], vocab_size: int | None) -> None:
    """Raise ValueError or TypeError for values that transformers would drop or trip over."""
    ids = next((given[n] for n in ("input_ids", "inputs") if given.get(n) is not None), None)
    if ids is not None:
        if not isinstance(ids, Tensor):
            raise TypeError(f"input_ids must be a tensor [batch, tokens], got {_said(ids)}")
        if ids.ndim != 2 or ids.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"input_ids must be int64 [batch, tokens], got {ids.dtype} {list(ids.shape)}"
            )
        mask = given.get("attention_mask")
        if isinstance(mask, Tensor) and (
            mask.shape != ids.shape or not ((mask == 0) | (mask == 1)).all()
        ):
            raise ValueError(
                f"attention_mask must be {list(ids.shape)}, of 1 for tokens and 0 for padding, "
                f"got {mask.dtype} {list(mask.shape)}"
            )
    pad = given.get("pad_token_id")
    if pad is not None and not (isinstance(pad, int) and 0 <= pad < (vocab_size or pad + 1)):
        raise ValueError(f"pad_token_id={pad!r} must be an id from 0 to {vocab_size}")
    if given.get("do_sample") not in (None, True, False):
        raise ValueError(f"do_sample={given['do_sample']!r} must be True or False")
    copies = given.get("num_return_sequences")
    if copies is not None and not (isinstance(copies, int) and copies >= 1):
        raise ValueError(f"num_return_sequences={copies!r} must be an integer of at least 1")
    streamer = given.get("streamer")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"streamer={_said(streamer)} has no put and end, as transformers' have")


def neutral(name: str, value: Any, given: Mapping[str, Any]) -> bool:
    """Whether decoding without this argument is what its value asks for."""
    if value is None or value is False or (isinstance(value, Sized) and len(value) == 0):
        return True
    if name == "position_ids":
        return _are_default_positions(value, given)
    if name == "token_type_ids":  # tokenizers return them unasked
        return isinstance(value, Tensor) and not value.any()
    return any(same(value, other) for other in (DEFAULTS.get(name), *_NEUTRAL.get(name, ())))


def fields_given(config: Any, saved: Any = None) -> dict[str, Any]:
    """Fields of a generation config that are set, and not those of the checkpoint's."""
    return {
        name: value
        for name, value in vars(config or GenerationConfig()).items()
        if name[0] != "_" and value is not None and not same(value, getattr(saved, name, None))
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return bool(a == b)


def _are_default_positions(positions: Any, given: Mapping[str, Any]) -> bool:
    """Consecutive from 0 where the attention mask, if any, has tokens."""
    if not isinstance(positions, Tensor):
        return False
    mask = given.get("attention_mask")
    if mask is None:
        mask = torch.ones(positions.shape[-1:], dtype=torch.int64)
    expected = (mask.cpu().long().cumsum(-1) - 1).broadcast_to(positions.shape)
    return bool(((positions.cpu() == expected) | (mask.cpu() == 0)).all())


def _remedy(name: str) -> str:
    if name in FIELDS | KEYWORDS:
        return _REMEDIES.get(name, _ONE_BY_ONE)
    return _REMEDIES.get(name, "remove it: token editing knows no such argument")


def _refusal(name: str, value: Any, remedy: str) -> ValueError:
    said = _said(value)
    said = said if len(said) <= 80 else said[:77] + "..."
    return ValueError(f"{name}={said} cannot be honoured: {remedy}")


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{type(value).__name__} {list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_said, value))}]"
    if value is None or isinstance(value, (str, int, float, dict)):
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)
