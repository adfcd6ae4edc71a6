"""LLaDA2.x (mini and flash, 2.0 to 2.2) as it stands on the Hub."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration import LLaDA2MoeConfig
from .masks import block_causal_mask, doubled_block_mask
from .modeling import LLaDA2MoeModel, LLaDA2MoeModelLM

AutoConfig.register(LLaDA2MoeConfig.model_type, LLaDA2MoeConfig, exist_ok=True)
AutoModel.register(LLaDA2MoeConfig, LLaDA2MoeModel, exist_ok=True)
AutoModelForCausalLM.register(LLaDA2MoeConfig, LLaDA2MoeModelLM, exist_ok=True)

__all__ = [
    "LLaDA2MoeConfig",
    "LLaDA2MoeModel",
    "LLaDA2MoeModelLM",
    "block_causal_mask",
    "doubled_block_mask",
]
