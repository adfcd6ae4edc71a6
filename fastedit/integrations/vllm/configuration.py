"""What vLLM is told of these models before it loads one: configs, and how to serve them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from transformers import Qwen3Config
from vllm.config.diffusion import DiffusionConfig
from vllm.logger import init_logger
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.transformers_utils.config import _CONFIG_REGISTRY

from fastedit.models.families import block_length, family_of
from fastedit.models.llada2 import LLaDA2MoeConfig

logger = init_logger(__name__)
HERE = __name__.rpartition(".")[0]
# Of a generation_config: what it says of sampling is never used, what it says of EOS is.
NEUTRAL = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
}
# Settings that would split a block, or ask for a step before the one before it is known.
WHOLE_BLOCKS = {
    "pipeline_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "prefill_context_parallel_size": 1,
    "enable_batch_sharded_sampling": False,
    "enable_dbo": False,
}
# Pages of keys and values hold this many positions, or a multiple, on every attention back end.
PAGE = 32


class SDARConfig(Qwen3Config):
    model_type = "sdar"


def name_configs(architectures: Iterable[str]) -> None:
    """Let vLLM read the config.json of these models, and set itself up for them."""
    for config in (LLaDA2MoeConfig, SDARConfig):
        _CONFIG_REGISTRY[config.model_type] = config
    for architecture in architectures:
        MODELS_CONFIG_MAP[architecture] = BlockDiffusion


class BlockDiffusion(VerifyAndUpdateConfig):
    """Engine settings that follow from a model that decodes block by block."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Make it a diffusion model for vLLM: one whose canvas is a block."""
        config = model_config.hf_config
        if getattr(config, "expert_capacity", None) is not None:
            raise ValueError(
                "expert_capacity (LLaDA2.2) routes whole blocks to experts, which vLLM's layers do "
                "not: use fastedit.Decoder"
            )
        length = block_length(family_of(_Model(config)), config)
        config.canvas_length = length
        if model_config.max_model_len < length:
            raise ValueError(
                f"max_model_len={model_config.max_model_len} must hold a block of {length} tokens"
            )
        model_config.max_model_len -= model_config.max_model_len % length
        model_config.override_generation_config = NEUTRAL | model_config.override_generation_config
        from fastedit.integrations.vllm.settings import RequestSettings

        RequestSettings.serve(model_config)
        model_config.logits_processors = [
            *(model_config.logits_processors or ()),
            f"{HERE}.settings:RequestSettings",
        ]

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Raises ValueError for engine settings that these models cannot be served with."""
        length = vllm_config.model_config.hf_config.canvas_length
        scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
        given = vllm_config.diffusion_config
        if given is not None and given.canvas_length not in (None, length):
            raise ValueError(
                f"canvas_length={given.canvas_length} of --diffusion-config is not the block "
                f"length of this model, {length}: leave it out"
            )
        vllm_config.diffusion_config = DiffusionConfig(canvas_length=length)
        # Where a back end is chosen by itself, one that can.
        vllm_config.attention_config.use_non_causal = True
        parallel = vllm_config.parallel_config
        for name, without in WHOLE_BLOCKS.items():
            value = getattr(parallel, name, without)
            if value not in (without, None):
                raise ValueError(f"{name}={value!r} does not go with blocks: leave it out")
        parallel.enable_batch_sharded_sampling = False  # which is otherwise up to vLLM
        for name in ("speculative_config", "kv_transfer_config"):
            if getattr(vllm_config, name) is not None:
                raise ValueError(f"{name} does not go with blocks: leave it out")
        if scheduler.async_scheduling:
            logger.warning("fastedit decodes blocks with synchronous scheduling")
        scheduler.async_scheduling = False
        scheduler.scheduler_cls = f"{HERE}.scheduler.BlockScheduler"
        if scheduler.max_num_batched_tokens < length:
            raise ValueError(
                f"max_num_batched_tokens={scheduler.max_num_batched_tokens} must hold a block of "
                f"{length} tokens"
            )
        if 0 < scheduler.long_prefill_token_threshold < length:
            raise ValueError(
                f"long_prefill_token_threshold={scheduler.long_prefill_token_threshold} must be 0, "
                f"or hold a block of {length} tokens"
            )
        if not cache.user_specified_block_size:
            cache.block_size, cache.user_specified_block_size = math.lcm(length, PAGE), True
        elif cache.block_size % length:
            raise ValueError(
                f"block_size={cache.block_size} must be a multiple of {length}, the model's block "
                "length: a page of keys and values that is shared must end with a block"
            )
        _no_full_graphs(vllm_config.compilation_config)


def _no_full_graphs(compilation: Any) -> None:
    """A prompt is a row per block for attention, which is outside of piecewise graphs only."""
    from vllm.config.compilation import CUDAGraphMode

    mode = compilation.cudagraph_mode
    if mode is None or mode.has_full_cudagraphs():
        compilation.cudagraph_mode = CUDAGraphMode.PIECEWISE


class _Model:
    """What of a model tells its family: its config."""

    def __init__(self, config: Any) -> None:
        self.config = config
