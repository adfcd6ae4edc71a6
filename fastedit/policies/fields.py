"""Parameters: declared with their default and what is allowed, checked, and read from text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch

HOTTEST = 1e6  # the highest temperature: draws are as good as uniform
_FP32_MAX = 3.4028234663852886e38
Check = Callable[[Any], Any]


class Parameter(NamedTuple):
    """What a field of a policy takes.

    check   the value in its proper type; ValueError says in words what is allowed
    type    float or int: one value per request, on the device; str or bool: static
    dtype   of the values on the device; None: static
    absent  what the device holds for None
    span    numbers that a search tries: from the first to the second; None: no others than `values`
    values  what a search tries by itself: all of a choice, None where it is allowed
    keys    under which the config of a model may say it, where it is None, or the tokenizer
    text    of the tokenizer's token that it is, where none of these do
    """

    check: Check
    type: type
    dtype: torch.dtype | None = None
    absent: float = 0
    span: tuple[float, float] | None = None
    values: tuple[Any, ...] = ()
    keys: tuple[str, ...] = ()
    text: str | None = None


def number(
    default: float | None,
    *,
    least: float = 0.0,
    most: float = math.inf,
    optional: bool = False,
    absent: float = 0.0,
    dtype: torch.dtype = torch.float32,
    span: tuple[float, float] | None = None,
) -> Any:
    """A field of real numbers from `least` to `most`, of None as well if `optional`.

    span: where a search looks; without it, up to `most`, or to 1 above `least`.
    """
    check = real(least, most, _words("number", least, most, optional), optional)
    span = span or (least, min(most, least + 1.0))
    return _field(default, Parameter(check, float, dtype, absent, span, (None,) * optional))


def probability(
    default: float | None,
    *,
    optional: bool = False,
    absent: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A field of numbers from 0 to 1, of None as well if `optional`.

    For thresholds too, where 1 says all that a larger number could: nothing is above it. One that
    is larger is a mistake, such as 90 for 0.9.
    """
    return number(default, most=1.0, optional=optional, absent=absent, dtype=dtype)


def integer(
    default: int | None,
    *,
    least: int = 0,
    most: int = 2**31 - 1,
    optional: bool = False,
    absent: int = 0,
    static: bool = False,
    span: tuple[int, int] | None = None,
) -> Any:
    """A field of integers from `least` to `most`, of None as well if `optional`.

    static: it says how large something is, so requests with different ones decode apart.
    span: where a search looks; without it, up to twice the default, and at least four values.
    """
    words = ("None or " if optional else "") + f"an integer from {least} to " + _power(most)
    dtype = None if static else torch.int32
    span = span or (least, min(most, max(2 * (default or 0), least + 3)))
    check = whole(least, words, optional, most)
    return _field(default, Parameter(check, int, dtype, absent, span, (None,) * optional))


def token_id(*keys: str, text: str | None = None) -> Any:
    """A field that holds the id of a token; None: what the model's config says under these keys,
    then what the tokenizer does, then its id of `text`."""
    check = whole(0, "None or a token id", True)
    return _field(None, Parameter(check, int, values=(None,), keys=keys, text=text))


def choice(default: str | bool | None, *others: str | bool) -> Any:
    """A field that holds one of these values; requests with different ones decode apart."""
    allowed = (default, *others)

    def check(value: Any) -> Any:
        if value not in allowed or type(value) not in map(type, allowed):
            raise ValueError(f"one of {', '.join(map(repr, allowed))}")
        return value

    return _field(default, Parameter(check, type((*others, default)[0]), values=allowed))


def parameter_of(field: dataclasses.Field) -> Parameter:
    """What `field` takes; one that was not declared with a function of this module, by its type."""
    if "parameter" in field.metadata:
        return field.metadata["parameter"]
    plain = str(getattr(field.type, "__name__", field.type)).partition("|")[0].strip()
    kind = {"float": float, "int": int, "bool": bool}.get(plain, str)
    dtype = {float: torch.float32, int: torch.int32}.get(kind)
    return Parameter(lambda value: value, kind, dtype)


def from_text(text: str, parameter: Parameter) -> Any:
    """The value that `text` spells; `none` is None. Raises ValueError for another type's."""
    if text.lower() == "none":
        return None
    if parameter.type is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    return parameter.type(text)


def real(least: float, most: float, words: str, optional: bool = False) -> Check:
    """Checks real numbers; those beyond fp32 become inf, which is what they are to comparisons."""

    def check(value: Any) -> float | None:
        if value is None and optional:
            return None
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or math.isnan(value) or not least <= value <= most:
            raise ValueError(words)
        return float(value) if value <= _FP32_MAX else math.inf

    return check


def whole(least: int, words: str, optional: bool = False, most: float = math.inf) -> Check:
    """Checks integers, also where a float holds one."""

    def check(value: Any) -> int | None:
        if value is None and optional:
            return None
        try:
            if isinstance(value, bool) or int(value) != value or not least <= value <= most:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(words) from None
        return int(value)

    return check


def checked(name: str, value: Any, check: Check) -> Any:
    """The value in its proper type, or ValueError with the name, the value and what is allowed."""
    try:
        return check(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {error}; got {value!r}") from None


def _field(default: Any, parameter: Parameter) -> Any:
    return dataclasses.field(default=default, metadata={"parameter": parameter})


def _words(noun: str, least: float, most: float, optional: bool) -> str:
    limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    return ("None or " if optional else "") + f"a {noun} {limits}"


def _power(most: int) -> str:
    return "2**31 - 1" if most == 2**31 - 1 else str(most)


HEAT = real(0.0, HOTTEST, "a number from 0 to 1,000,000")  # checks temperatures
