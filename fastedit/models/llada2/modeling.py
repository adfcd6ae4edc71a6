"""LLaDA2.x: a block-diffusion mixture-of-experts transformer under the Hub's parameter names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.integrations import use_experts_implementation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from . import varlen
from .attention import LLaDA2MoeAttention, LLaDA2MoeRMSNorm, convert_mask
from .configuration import LLaDA2MoeConfig
from .conversion import StrictLoading, fuse_experts
from .expert_adapters import adapted_modules
from .generation import EditingGenerationMixin
from .masks import default_positions, is_one_block, resolve_mask
from .rotary import rotary_tables
from .routing import LLaDA2MoeRouter, RoutingBlocks, routing_blocks


class LLaDA2MoeMLP(nn.Module):
    """W_down(act(W_gate x) * W_up x)."""

    def __init__(self, config: LLaDA2MoeConfig, size: int):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, size, bias=False)
        self.down_proj = nn.Linear(size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


@use_experts_implementation
class LLaDA2MoeExperts(nn.Module):
    """All routed experts of a layer: gate and up stacked [E, 2I, H], down [E, H, I]."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.num_experts = config.num_experts
        hidden, inner = config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, inner))
        self.act_fn = ACT2FN[config.hidden_act]

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # transformers.Trainer resumes with load_state_dict(strict=False) on the Hub's names, which
        # would otherwise leave the experts as they are without a word.
        state_dict.update(fuse_experts(state_dict, prefix, self.num_experts))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """`hidden` [N, H], `experts` and `weights` [N, k] -> sum_k w_k expert_k(x), added in fp32.

        The "eager" implementation: one pair of products per expert that has tokens.
        """
        top_k = experts.shape[1]
        chosen, order = experts.flatten().sort(stable=True)
        counts = torch.bincount(chosen, minlength=self.num_experts).tolist()
        outputs = []
        for expert, x in enumerate(hidden[order // top_k].split(counts)):
            if len(x):
                gate, up = F.linear(x, self.gate_up_proj[expert]).chunk(2, dim=-1)
                outputs.append(F.linear(self.act_fn(gate) * up, self.down_proj[expert]))
        by_token = torch.cat(outputs)[order.argsort()].unflatten(0, (-1, top_k))
        return (by_token * weights[..., None]).sum(dim=1).to(hidden.dtype)

    def all_on_all(self, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """As `forward`, with every expert run on every token and weighted by 0 where not chosen.

        More products, far fewer calls: for a block or two of tokens and a handful of experts on a
        CPU, half the time of sorting the tokens by expert. On a GPU it waits for nothing.
        """
        share = weights.new_zeros(len(hidden), self.num_experts).scatter_(1, experts, weights)
        gate, up = torch.matmul(hidden, self.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
        outputs = torch.bmm(self.act_fn(gate) * up, self.down_proj.transpose(1, 2))
        return (outputs * share.t()[..., None]).sum(dim=0).to(hidden.dtype)

    def suits_all_on_all(self, tokens: Tensor, top_k: int) -> bool:
        if torch.is_grad_enabled() or self.num_experts > 4 * top_k:
            return False
        if tokens.device.type == "cpu":
            return len(tokens) <= 64 and tokens.dtype == torch.float32
        # In fp16 an expert that was not chosen may overflow, and infinity times 0 is no number.
        plain = len(tokens) <= 4096 and tokens.dtype != torch.float16
        return plain and grouped_products_wait(tokens)


def grouped_products_wait(tokens: Tensor) -> bool:
    """Whether torch's grouped products of `tokens` read the size of every group on the host.

    They do but in bf16 on NVIDIA's compute capability 9.x and 10.x: ATen's `_grouped_mm_fallback`,
    torch 2.11 and 2.13. A CUDA graph cannot hold such a forward. False where no device is waited
    for.
    """
    if tokens.device.type != "cuda":
        return False
    fast = torch.version.hip is None and tokens.dtype == torch.bfloat16
    return not fast or torch.cuda.get_device_capability(tokens.device)[0] not in (9, 10)


class LLaDA2MoeSparseBlock(nn.Module):
    """Routed experts plus the shared expert, which is not scaled."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.gate = LLaDA2MoeRouter(config)
        self.experts = LLaDA2MoeExperts(config)
        self.shared_experts = LLaDA2MoeMLP(
            config, config.moe_intermediate_size * config.num_shared_experts
        )

    def forward(self, x: Tensor, blocks: RoutingBlocks | None) -> Tensor:
        tokens = x.flatten(0, 1)
        experts, weights = self.gate(tokens, blocks)
        routed: Callable[..., Tensor] = self.experts
        # An adapter of the experts' weights (peft's ParamWrapper) stands in for the module.
        own = isinstance(self.experts, LLaDA2MoeExperts)
        if own and self.experts.suits_all_on_all(tokens, self.gate.top_k):
            routed = self.experts.all_on_all
        return routed(tokens, experts, weights).view_as(x) + self.shared_experts(x)


class LLaDA2MoeDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward; the first layers are dense."""

    def __init__(self, config: LLaDA2MoeConfig, layer_idx: int):
        super().__init__()
        self.is_sparse = layer_idx >= config.first_k_dense_replace
        self.input_layernorm = LLaDA2MoeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = LLaDA2MoeAttention(config, layer_idx)
        self.post_attention_layernorm = LLaDA2MoeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = (
            LLaDA2MoeSparseBlock(config)
            if self.is_sparse
            else LLaDA2MoeMLP(config, config.intermediate_size)
        )

    def forward(self, hidden, mask, rotary, blocks, past_key_values=None) -> Tensor:
        hidden = (
            hidden + self.attention(self.input_layernorm(hidden), mask, rotary, past_key_values)[0]
        )
        x = self.post_attention_layernorm(hidden)
        return hidden + (self.mlp(x, blocks) if self.is_sparse else self.mlp(x))


class LLaDA2MoePreTrainedModel(StrictLoading):
    config: LLaDA2MoeConfig
    config_class = LLaDA2MoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LLaDA2MoeDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": LLaDA2MoeDecoderLayer,
        "attentions": LLaDA2MoeAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, LLaDA2MoeExperts):
            initialization.normal_(module.gate_up_proj, std=std)
            initialization.normal_(module.down_proj, std=std)
        elif isinstance(module, LLaDA2MoeRouter):
            initialization.normal_(module.weight, std=std)
            initialization.zeros_(module.expert_bias)


class LLaDA2MoeModel(LLaDA2MoePreTrainedModel):
    """Embedding, layers and final norm. Arguments as for `LLaDA2MoeModelLM`."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__(config)
        self.word_embeddings: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LLaDA2MoeDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LLaDA2MoeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> MoeModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        hidden = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        mask, positions = self._mask_and_positions(
            attention_mask, position_ids, past_key_values, hidden
        )
        blocks = None
        if self.config.expert_capacity is not None:
            blocks = routing_blocks(
                positions.expand(hidden.shape[:2]),
                mask,
                self.config.block_size,
                getattr(past_key_values, "keys_by_position", False),
            )
        mask = self._for_attention(mask, past_key_values, hidden)
        cached = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = cached + hidden.shape[1]
        rotary = rotary_tables(self.config, positions, hidden.dtype, length)
        for layer in self.layers:
            hidden = layer(hidden, mask, rotary, blocks, past_key_values=past_key_values)
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )

    def _for_attention(self, mask: Tensor | None, cache: Any, hidden: Tensor) -> Any:
        """The mask as the layers' attention takes it, or the lengths that stand in for it."""
        implementation = self.config._attn_implementation
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        seen = getattr(cache, "key_lengths", None)
        if seen is not None and varlen.serves(hidden, implementation):
            return varlen.lengths(seen, groups * hidden.shape[1], cache.length)
        return convert_mask(mask, implementation, groups, hidden)

    def _mask_and_positions(self, mask, positions, cache, hidden) -> tuple[Tensor | None, Tensor]:
        shape, block_size = hidden.shape[:2], self.config.block_size
        cached = cache.get_seq_length() if cache is not None else 0
        unmasked = mask is None and is_one_block(positions, shape, cached, block_size)
        if positions is None:
            positions = default_positions(mask, shape, cached, hidden.device)
        if unmasked:
            return None, positions
        return resolve_mask(mask, positions, shape, cached, block_size), positions


class LLaDA2MoeModelLM(LLaDA2MoePreTrainedModel, EditingGenerationMixin):
    """LLaDA2.x with its language-model head. Position i predicts token i: there is no shift."""

    adapted_modules = adapted_modules

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        upcast_logits: bool = True,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Logits [B, kept, vocab] of `input_ids` [B, Q], in fp32 as the released model has them.

        `attention_mask`: bool [1 or B, 1, Q, K] (True = may attend), a padding mask [B, K], or
        None, over K = cached + Q keys. None is the block-causal rule with `config.block_size`;
        beside a non-empty cache at most `block_size` queries are one block that sees everything,
        so chunks that start inside a block need an explicit mask.
        `position_ids` [1 or B, Q]: default consecutive after the cache, padding of a 2-D mask not
        counted. `past_key_values`, when given, is extended; `use_cache=True` makes one.
        `logits_to_keep`: the last n positions (0: all), or a 1-D LongTensor of positions.
        `upcast_logits=False` leaves the logits in the dtype of the weights.

        Raises ValueError for masks of other kinds (see `masks.resolve_mask`).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        keep: Any = logits_to_keep
        if isinstance(keep, int):
            keep = slice(-keep, None)
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        return MoeCausalLMOutputWithPast(
            logits=logits.float() if upcast_logits else logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
