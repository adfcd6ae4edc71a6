"""SGLang's decision steps as its wheel has them, without the server around them.

Importing the package pulls in a CUDA runtime, kernels and a model runner, none of which the
decision uses. So three of its files are run as they are, and what they import for the names of
types is an empty stand-in meanwhile. `pip install --no-deps sglang` is enough.
"""

from __future__ import annotations

import importlib.util
import sys
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


@cache
def algorithm(name: str) -> Any:
    """The module of that name, with `Algorithm` and, as `DllmConfig`, what it is configured with.

    Raises ImportError without SGLang, and whatever another release's files may raise.
    """
    found = importlib.util.find_spec("sglang")
    if found is None or not found.submodule_search_locations:
        raise ImportError("needs sglang: pip install --no-deps sglang")
    root = Path(found.submodule_search_locations[0]).parent
    run = (*RUN, f"sglang.srt.dllm.algorithm.{name}")
    names = (*STAND_INS, *run)
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    try:
        sys.modules.update({name: _StandIn(name) for name in STAND_INS})
        for each in run:
            spec = importlib.util.spec_from_file_location(
                each, root / Path(*each.split(".")).with_suffix(".py")
            )
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[each] = module
            spec.loader.exec_module(module)
        return sys.modules[run[-1]]
    finally:
        for each in names:
            sys.modules.pop(each, None)
        sys.modules.update(before)
