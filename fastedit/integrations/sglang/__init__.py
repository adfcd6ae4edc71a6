"""SGLang's door: `--dllm-algorithm FastEdit`, found through its entry point for plug-ins.

SGLang runs `register` in each of its processes. It does nothing there, and imports nothing, unless
the command line names `FastEdit` or the variable FASTEDIT_SGLANG is set:

| FASTEDIT_SGLANG | |
|---|---|
| `add` | the algorithm `FastEdit` can be chosen; for programs that start an `Engine` themselves |
| `replace` | and the steps of `JointThreshold` are ours: the same ids, in one launch |

Source: SGLang 0.5.23, `srt/plugins` and `srt/dllm/algorithm`.
"""

from __future__ import annotations

import os
import sys

VARIABLE, NAME = "FASTEDIT_SGLANG", "FastEdit"
REPLACED = "sglang.srt.dllm.algorithm.joint_threshold.JointThreshold.step"


def register() -> None:
    """What the entry point names; may be called again.

    Raises ValueError for another value of FASTEDIT_SGLANG, and ImportError where SGLang has no
    algorithms for diffusion language models that can be extended.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "add", "replace"):
        raise ValueError(f"{VARIABLE}={asked!r} must be add or replace, or not be set")
    if not asked and not any(argument.split("=")[-1] == NAME for argument in sys.argv):
        return
    try:
        from sglang.srt.dllm.algorithm import algo_name_to_cls

        from fastedit.integrations.sglang.algorithm import FastEdit, replaced_step
    except ImportError as error:
        raise ImportError(
            f"{NAME} needs an SGLang with srt/dllm/algorithm, such as 0.5.23, installed with all "
            f"that it needs itself: {error}"
        ) from error
    algo_name_to_cls[NAME] = FastEdit
    if asked == "replace":
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(REPLACED, replaced_step, HookType.AROUND)
