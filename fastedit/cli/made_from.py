"""What a line of results was made from, short enough to stand in it and to be compared later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastedit.cli.requests import Row
    from fastedit.config import DecodeConfig

_DIGITS = 8
_MODEL = ("weights", "tokenizer", "adapter", "dtype", "head")
_NONE = "-" * _DIGITS  # in place of a head, where one of two has none
_FORM = re.compile(rf"(\w{{{_DIGITS}}})-(\w{{{_DIGITS}}})-((?:\w{{{_DIGITS}}})+)")


def model_part(identity: dict[str, str], dtype: str) -> str:
    """The last part of `made_from`: eight hexadecimal digits for each of `_MODEL` that is there.

    identity  of `fastedit.models.identity`
    """
    found = identity | {"dtype": dtype}
    return "".join(_digest(found[name]) for name in _MODEL if name in found)


def made_from(row: Row, config: DecodeConfig, raw: bool, model: str, default: str) -> str:
    """`prompt-options-model`, all but the last of eight hexadecimal digits.

    config   the row's own, its overrides applied
    model    of `model_part`
    default  policy of the model's family

    The device is left out, so a run may go on on another one.
    """
    from fastedit.config import OF_THE_POLICY

    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name in OF_THE_POLICY:  # what was given of them is in the rule
        del options[name]
    options["policy"] = str(config.rule(default))
    if not config.gives("block_length"):  # then it is the model's
        options["block_length"] = None
    if row.kept:
        options["kept"] = row.kept
    values = ([row.prompt, raw], options)
    return "-".join([*map(_digest, values), model])


def is_made_from(text: Any) -> bool:
    return isinstance(text, str) and bool(_FORM.fullmatch(text))


def differences(before: str, now: str) -> list[str] | None:
    """In words, which parts of two `made_from` differ; None where that cannot be told.

    It cannot of an earlier form, in which the path of a model stood for its content.
    """
    prompt, options, model = before.split("-")
    new_prompt, new_options, new_model = now.split("-")
    whole = len(_MODEL) * _DIGITS
    if whole - _DIGITS in (len(model), len(new_model)):
        model, new_model = (part + _NONE[: whole - len(part)] for part in (model, new_model))
    if len(model) != len(new_model):
        return None
    found = ["another prompt"] if prompt != new_prompt else []
    found += ["other options"] if options != new_options else []
    parts = [
        name
        for place, name in enumerate(_MODEL)
        if model[place * _DIGITS :][:_DIGITS] != new_model[place * _DIGITS :][:_DIGITS]
    ]
    found += [f"another model; other {' and '.join(parts)}"] if parts else []
    return found


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
