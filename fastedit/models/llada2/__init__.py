"""LLaDA2.x (mini and flash, 2.0 to 2.2) as it stands on the Hub."""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from fastedit.models.masks import block_causal_mask

from .configuration import MODEL_TYPES, LLaDA2MoeConfig, LLaDA2MoeVeOmniConfig
from .modeling import LLaDA2MoeModel, LLaDA2MoeModelLM

for _config in (LLaDA2MoeConfig, LLaDA2MoeVeOmniConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    for _auto, _model in ((AutoModel, LLaDA2MoeModel), (AutoModelForCausalLM, LLaDA2MoeModelLM)):
        # Not by `_auto.register`, which wants one config class per model class.
        _mapping: Any = _auto._model_mapping
        _mapping.register(_config, _model, exist_ok=True)

__all__ = [
    "MODEL_TYPES",
    "LLaDA2MoeConfig",
    "LLaDA2MoeModel",
    "LLaDA2MoeModelLM",
    "block_causal_mask",
]
