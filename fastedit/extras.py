"""Packages that only some of fastedit needs, and the line that installs them here."""

from __future__ import annotations

import functools
import importlib
import tomllib
from pathlib import Path
from types import ModuleType

NAME = "fastedit-dlm"


def require(package: str, extra: str, what: str) -> ModuleType:
    """The module `package`, which `extra` of pyproject.toml brings.

    what: who needs it, as "plots need". Raises ImportError with the line to run where it is
    missing or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise missing(package, extra, what) from error


def missing(package: str, extra: str, what: str) -> ImportError:
    """What `require` raises, for modules that import `package` themselves."""
    return ImportError(f"{what} {package.replace('_', '-')}: {install(extra)}")


def install(extra: str) -> str:
    """The line that adds `extra` to this installation: to a clone in place, or to a wheel."""
    clone = _clone()
    if clone is None:
        return f"pip install '{NAME}[{extra}]'"
    place = "." if clone == Path.cwd() else clone
    return f"pip install -e '{place}[{extra}]'"


@functools.cache
def _clone() -> Path | None:
    """The clone that this package is imported from; None where it was installed as a wheel."""
    folder = Path(__file__).resolve().parents[1]
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return folder if project.get("project", {}).get("name") == NAME else None
