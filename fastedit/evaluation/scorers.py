"""Which generated texts are right: the scorers of questions in a file, and functions of a user."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from fastedit.files.jsonl import as_line
from fastedit.tasks import Score

PYTHON = "python:"  # before the module and the name of a function
# A sign behind a letter or a digit is a dash: "3-5" are two numbers above zero.
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)


class ScorerError(ValueError):
    """A function of the user's that raised, or returned something that is no score."""


def scorer_of(name: str) -> Callable[[str, Any], Score]:
    """The scorer called `name`: of `SCORERS`, or "python:module:function".

    Such a function is called with the generated text and the value of the answer's field, and
    returns True or False, or a number from 0 to 1, of which 1 is right. Modules in the current
    folder are found. What is returned here raises ScorerError where it raises, or returns anything
    else. Raises ValueError for a name that is none, and for a function that cannot be imported.
    """
    if name.startswith(PYTHON):
        return functools.partial(_by_function, name, _imported(name))
    if name not in SCORERS:
        raise ValueError(
            f"scorer must be {PYTHON}module:function, or one of {', '.join(SCORERS)}; got {name!r}"
        )
    return functools.partial(_by_rule, SCORERS[name])


def version_of(name: str) -> str:
    """`name`, and of a user's function what its module is now."""
    if not name.startswith(PYTHON):
        return name
    module = sys.modules[name.removeprefix(PYTHON).partition(":")[0]]
    file = getattr(module, "__file__", None)
    code = Path(file).read_bytes() if file else b""
    return f"{name} {hashlib.sha256(code).hexdigest()}"


def last_number(text: str) -> Decimal | None:
    """The last number in a text, thousands separated by commas or not."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:  # an exponent beyond what there is
        return None


def is_number(text: Any) -> bool:
    """Whether a text is one number, and nothing else."""
    return isinstance(text, str) and _NUMBER.fullmatch(text.strip()) is not None


def _same(text: str, answer: str) -> bool:
    return text.strip() == answer.strip()


def _contains(text: str, answer: str) -> bool:
    return answer.strip() in text


def _same_number(text: str, answer: str) -> bool:
    wanted = last_number(answer)
    return wanted is not None and last_number(text) == wanted


# Whether a generated text is right: the answer but for space around it, a text that holds the
# answer, or one whose last number is that of the answer.
SCORERS: dict[str, Callable[[str, str], bool]] = {
    "exact": _same,
    "contains": _contains,
    "number": _same_number,
}


def _by_rule(rule: Callable[[str, str], bool], text: str, answer: str) -> Score:
    right = rule(text, answer)
    return Score(right, float(right))


def _by_function(name: str, function: Callable[[str, Any], Any], text: str, answer: Any) -> Score:
    try:
        value = function(text, answer)
    except Exception as error:  # whatever a user's code raises
        kind = type(error).__name__
        raise ScorerError(f"{name} raised {kind}: {as_line(error)}; for {_shown(text)}") from error
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:  # a scalar of NumPy or torch
        value = value.item()
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ScorerError(
            f"{name} must return True or False, or a number from 0 to 1; got {str(value)[:60]!r} "
            f"({type(value).__name__}) for {_shown(text)}"
        )
    return Score(value == 1, float(value))


def _shown(text: str) -> str:
    return f"the text {text[:60]!r}"


def _imported(name: str) -> Callable[[str, Any], Any]:
    module_name, _, path = name.removeprefix(PYTHON).partition(":")
    if not module_name or not path:
        raise ValueError(f"scorer {name!r} must be {PYTHON}module:function")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # an installed command does not look here
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _unusable(name, error) from error
        raise ValueError(
            f"scorer {name!r}: there is no module {error.name!r} in {here} or on PYTHONPATH"
        ) from None
    except Exception as error:  # whatever the code of a module raises
        raise _unusable(name, error) from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if callable(getattr(found, n)) and n[:1] != "_"]
            raise ValueError(
                f"scorer {name!r}: {module_name} has no {path!r}; it has "
                f"{', '.join(known[:12]) or 'no functions'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"scorer {name!r}: {path} is no function but {type(found).__name__}")
    return found


def _unusable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"scorer {name!r} cannot be imported: {type(error).__name__}: {as_line(error)}"
    )
