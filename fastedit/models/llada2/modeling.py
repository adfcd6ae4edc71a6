"""LLaDA2.x: a block-diffusion mixture-of-experts transformer under the Hub's parameter names."""

from __future__ import annotations

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

from fastedit.models.adapters.experts import adapted_modules
from fastedit.models.experts import fuse_experts
from fastedit.models.hub.strict import Shapes, StrictLoading
from fastedit.models.masks import mask_and_positions

from . import varlen
from .arguments import CACHE, check_labels, checked, one_cache
from .attention import LLaDA2MoeAttention, LLaDA2MoeRMSNorm, convert_mask
from .configuration import LLaDA2MoeConfig
from .conversion import check_tensors, register_conversions
from .generation import EditingGenerationMixin
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
class _Experts(nn.Module):
    """All routed experts of a layer: gate and up stacked [E, 2I, H], down [E, H, I]."""

    config: LLaDA2MoeConfig  # set by the decorator

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
        """The "eager" implementation: one pair of products per expert that has tokens."""
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


class LLaDA2MoeExperts(_Experts):
    """The experts, run by the implementation that the configuration names or all on all tokens."""

    def forward(self, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """`hidden` [N, H], `experts` and `weights` [N, k] -> sum_k w_k expert_k(x), added in fp32.

        The choice is made in here: offloading, sharding and adapters act around the module's call.
        """
        if self.suits_all_on_all(hidden, experts.shape[1]):
            return self.all_on_all(hidden, experts, weights)
        return super().forward(hidden, experts, weights)

    def all_on_all(self, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """As `forward`, with every expert run on every token and weighted by 0 where not chosen.

        More products, far fewer calls: for a block or two of tokens and a handful of experts on a
        CPU, half the time of sorting the tokens by expert. On a GPU it waits for nothing.
        """
        share = weights.new_zeros(hidden.shape[0], self.num_experts).scatter_(1, experts, weights)
        gate, up = torch.matmul(hidden, self.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
        outputs = torch.bmm(self.act_fn(gate) * up, self.down_proj.transpose(1, 2))
        return (outputs * share.t()[..., None]).sum(dim=0).to(hidden.dtype)

    def suits_all_on_all(self, tokens: Tensor, top_k: int) -> bool:
        few = self.num_experts <= 4 * top_k
        # In fp16 an expert that was not chosen may overflow, and infinity times 0 is no number.
        narrow = tokens.dtype == torch.float16
        if torch.compiler.is_exporting():  # one program for any number of tokens and any routing
            onnx = torch.onnx.is_in_onnx_export()
            stuck = ("eager", "grouped_mm") if onnx else ("eager",)
            return self.config._experts_implementation in stuck or (few and not narrow)
        if torch.is_grad_enabled() or not few:
            return False
        if tokens.device.type == "cpu":
            return len(tokens) <= 64 and tokens.dtype == torch.float32
        return len(tokens) <= 4096 and not narrow and grouped_products_wait(tokens)


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
        return self.experts(tokens, experts, weights).view_as(x) + self.shared_experts(x)


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

    def forward(self, hidden, mask, rotary, blocks, cache=None, past_key_values=None) -> Tensor:
        """The cache comes under the name that this transformers looks for when checkpointing."""
        cache = one_cache(past_key_values, cache)
        hidden = hidden + self.attention(self.input_layernorm(hidden), mask, rotary, cache)[0]
        x = self.post_attention_layernorm(hidden)
        return hidden + (self.mlp(x, blocks) if self.is_sparse else self.mlp(x))


class LLaDA2MoePreTrainedModel(StrictLoading):
    config: LLaDA2MoeConfig
    config_class = LLaDA2MoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    masks_are_bool = True  # of a trunk called by itself, whatever its attention takes
    _no_split_modules = ["LLaDA2MoeDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": LLaDA2MoeDecoderLayer,
        "attentions": LLaDA2MoeAttention,
    }

    @classmethod
    def register_conversions(cls) -> None:
        register_conversions()

    def check_tensors(self, found: Shapes) -> None:
        if self.base_model is self and not any(name.startswith("model.") for name in found):
            found = {f"model.{name}": shape for name, shape in found.items()}
            found["lm_head.weight"] = (self.config.vocab_size, self.config.hidden_size)
        check_tensors(found, self.config)

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

    @checked
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
        cache: Cache | None = None,
        keys_by_position: bool = False,
        key_lengths: tuple[Tensor, Tensor, int] | None = None,
        hidden_layer: int | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        cache = one_cache(past_key_values, cache)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        hidden = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        cached = cache.get_seq_length() if cache is not None else 0
        mask, positions = mask_and_positions(
            attention_mask, position_ids, hidden, cached, self.config.block_size
        )
        blocks = None
        if self.config.expert_capacity is not None:
            blocks = routing_blocks(
                positions.expand(hidden.shape[:2]),
                mask,
                self.config.block_size,
                keys_by_position,
            )
        mask = self._for_attention(mask, key_lengths, hidden)
        length = cached + hidden.shape[1]
        rotary = rotary_tables(self.config, positions, hidden.dtype, length)
        named: dict[str, Any] = {CACHE: cache}
        kept = None
        for index, layer in enumerate(self.layers):
            if index == hidden_layer:
                kept = (hidden,)
            hidden = layer(hidden, mask, rotary, blocks, **named)
        return MoeModelOutputWithPast(
            last_hidden_state=self.norm(hidden), hidden_states=kept, **named
        )

    def _for_attention(
        self, mask: Tensor | None, key_lengths: tuple[Tensor, Tensor, int] | None, hidden: Tensor
    ) -> Any:
        """The mask as the layers' attention takes it, or the lengths that stand in for it."""
        implementation = self.config._attn_implementation
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        if key_lengths is not None and varlen.serves(hidden, implementation):
            return varlen.lengths(*key_lengths, groups * hidden.shape[1])
        return convert_mask(mask, implementation, groups, hidden)


class LLaDA2MoeModelLM(EditingGenerationMixin, LLaDA2MoePreTrainedModel):
    """LLaDA2.x with its language-model head. Position i predicts token i: there is no shift."""

    adapted_modules = adapted_modules

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForMaskedLM"  # transformers' name of a cross entropy without a shift
        self.post_init()

    @checked
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
        labels: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        cache: Cache | None = None,
        keys_by_position: bool = False,
        key_lengths: tuple[Tensor, Tensor, int] | None = None,
        hidden_layer: int | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Logits [B, kept, vocab] of `input_ids` [B, Q], in fp32 as the released model has them.

        `attention_mask`: bool [1 or B, 1, Q, K] (True = may attend), a padding mask [B, K], or
        None, over K = cached + Q keys. None is the block-causal rule with `config.block_size`;
        beside a non-empty cache at most `block_size` queries are one block that sees everything,
        so chunks that start inside a block need an explicit mask.
        `position_ids` [1 or B, Q]: default consecutive after the cache, padding of a 2-D mask not
        counted. Without a 4-D mask and a cache, documents packed in a row by positions that begin
        again do not see each other. `past_key_values`, which newer transformers call `cache`, is
        extended when given; `use_cache=True` makes one.
        `keys_by_position`: the cache gives key p for position p, and not the queries' own keys
        last. `key_lengths` (seen int32 [B], starts int32 [B], most): every query of row b sees its
        first seen[b] keys, at most `most`, which is what the mask says too; in what the cache
        returns with `flat=True` they begin at position starts[b]. An attention that takes lengths
        has no use for the mask.
        `logits_to_keep`: the last n positions (0: all), or a 1-D LongTensor of positions.
        `upcast_logits=False` leaves the logits in the dtype of the weights.
        `labels` int64 [B, Q], -100 = none, give `loss`: the cross entropy of position i and label
        i, both of the kept positions, as a mean or divided by `num_items_in_batch`. Noise, masks
        and their weights are the caller's; `fastedit.training` has them.
        `output_hidden_states`; `output_attentions` under "eager" attention. `hidden_layer`: the
        number of a layer, whose input alone is then returned as `hidden_states`, a tuple of one.

        Raises ValueError for masks of other kinds (see `masks.resolve_mask`) and for arguments of
        transformers that mean nothing here, TypeError for unknown ones (see `arguments`).
        """
        if labels is not None:
            check_labels(labels, input_ids if inputs_embeds is None else inputs_embeds)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=one_cache(past_key_values, cache),
            keys_by_position=keys_by_position,
            key_lengths=key_lengths,
            hidden_layer=hidden_layer,
            return_dict=True,
            **kwargs,
        )
        keep: Any = logits_to_keep
        if isinstance(keep, int):
            keep = slice(-keep, None)
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits,
                labels[:, keep].contiguous(),
                logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
            )
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits.float() if upcast_logits else logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
