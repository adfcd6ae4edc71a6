"""vLLM's own classes of these architectures, with attention that follows from blocks."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.bailing_moe import BailingMoeV2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from fastedit.models.llada2.rotary import rope_parameters


class Blockwise:
    """Mixed into a class of vLLM: what is seen from a block, and what decides on its logits."""

    @staticmethod
    def get_model_state_cls() -> type:
        from fastedit.integrations.vllm.state import BlockState

        return BlockState


class LLaDA2MoeModelLM(Blockwise, BailingMoeV2ForCausalLM):
    """LLaDA2.x has the layers of Ling 2.0, which vLLM calls Bailing, under the same names."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        config.use_rmsnorm, config.embedding_dropout = True, 0.0
        config.rope_parameters = rope_parameters(
            config.rope_theta,
            config.partial_rotary_factor,
            config.rope_scaling,
            config.rope_parameters,
        )
        super().__init__(vllm_config=vllm_config, prefix=prefix)


class SDARForCausalLM(Blockwise, Qwen3ForCausalLM):
    """SDAR has the layers of Qwen3."""
