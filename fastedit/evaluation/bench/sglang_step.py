"""SGLang's decision steps as its wheel has them, without the server around them.

Importing the package pulls in a CUDA runtime, kernels and a model runner, none of which the
decision uses. So three of its files are run as they are, and what they import for the names of
types is an empty stand-in meanwhile. `pip install --no-deps sglang` is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

RUN = ("sglang.srt.dllm.config", "sglang.srt.dllm.algorithm.base")
STAND_INS = (
    "sglang",
    "sglang.srt",
    "sglang.srt.arg_groups",
    "sglang.srt.arg_groups.overrides",
    "sglang.srt.configs",
    "sglang.srt.configs.model_config",
    "sglang.srt.dllm",
    "sglang.srt.dllm.algorithm",
    "sglang.srt.layers",
    "sglang.srt.layers.logits_processor",
    "sglang.srt.model_executor",
    "sglang.srt.model_executor.forward_batch_info",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.server_args",
    "sglang.srt.utils",
)


class _StandIn(ModuleType):
    """Has every name that is imported from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda: False) if name == "is_npu" else object


@contextmanager
def loaded(*names: str) -> Iterator[None]:
    """While it lasts, these modules of SGLang are run as they are, in this order, and can be
    imported; what they import is a stand-in where it is not among them.

    Raises ImportError without SGLang, and whatever another release's files may raise.
    """
    found = importlib.util.find_spec("sglang")
    if found is None or not found.submodule_search_locations:
        raise ImportError("needs sglang: pip install --no-deps sglang")
    root = Path(found.submodule_search_locations[0]).parent
    before = {name: module for name, module in sys.modules.items() if _is_sglang(name)}
    try:
        sys.modules.update({name: _StandIn(name) for name in STAND_INS})
        for name in names:
            path = root.joinpath(*name.split("."))
            package = path.is_dir()
            file = path / "__init__.py" if package else path.with_suffix(".py")
            places = [str(path)] if package else None
            spec = importlib.util.spec_from_file_location(
                name, file, submodule_search_locations=places
            )
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        yield
    finally:
        for name in [name for name in sys.modules if _is_sglang(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_sglang(name: str) -> bool:
    return name.split(".")[0] == "sglang"


@cache
def algorithm(name: str) -> Any:
    """The module of that name, with `Algorithm` and, as `DllmConfig`, what it is configured with.

    Raises what `loaded` raises.
    """
    name = f"sglang.srt.dllm.algorithm.{name}"
    with loaded(*RUN, name):
        return sys.modules[name]
