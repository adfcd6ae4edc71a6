"""What vLLM's model runner asks of a model that decodes block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.attn_utils import build_attn_metadata
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from fastedit.integrations.vllm.sampler import BlockSampler
from fastedit.integrations.vllm.settings import Settings


class BlockState(DefaultModelState):
    """A request sees, from each of its blocks, that block and those before it."""

    num_new_sampled_tokens_per_step = 0
    supports_prompt_embeds = False

    def __init__(self, vllm_config: Any, *args: Any) -> None:
        super().__init__(vllm_config, *args)
        self.length = vllm_config.diffusion_config.canvas_length
        self.settings = Settings(self.model_config)
        self.slots: dict[str, int] = {}

    def custom_sampler(self, sampler: Any) -> tuple[Any, None]:
        self.sampler = BlockSampler(sampler, self.settings, self.length)
        return self.sampler, None

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        self.slots[new_req_data.req_id] = req_index
        self.sampler.open(req_index, new_req_data)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        slot = self.slots.pop(req_id, None)
        if slot is not None:
            self.sampler.close(slot)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Ask for the logits of whole blocks, also where a prompt's tail is in one."""
        blocks = decoding(input_batch)
        if input_batch.num_draft_tokens < blocks * self.length:
            first = input_batch.query_start_loc[:blocks].long()
            offsets = torch.arange(self.length, device=first.device)
            input_batch.logits_indices = (first[:, None] + offsets).flatten()
        return super().prepare_inputs(input_batch, req_states)

    def prepare_attn(
        self,
        input_batch: Any,
        cudagraph_mode: Any,
        block_tables: tuple[torch.Tensor, ...],
        slot_mappings: torch.Tensor,
        attn_groups: Any,
        kv_cache_config: Any,
        for_capture: bool = False,
        ubatch_idx: int = 0,
    ) -> dict[str, Any]:
        """A sequence per block, which sees itself and what is before it; no mask is needed."""
        requests = input_batch.num_reqs
        starts = input_batch.query_start_loc[: requests + 1]
        starts_cpu = torch.from_numpy(input_batch.query_start_loc_np[: requests + 1])
        seen = input_batch.seq_lens[:requests]
        most = int(input_batch.num_scheduled_tokens.max(initial=0))
        if most > self.length:
            of, starts_np, seen_np = sequences(
                input_batch.num_computed_tokens_np, input_batch.num_scheduled_tokens, self.length
            )
            starts_cpu = torch.from_numpy(starts_np)
            starts = starts_cpu.to(self.device, non_blocking=True)
            seen = torch.from_numpy(seen_np).to(self.device, non_blocking=True)
            rows = torch.from_numpy(of).to(self.device, non_blocking=True)
            block_tables = tuple(table[rows] for table in block_tables)
            most = self.length
        return build_attn_metadata(
            attn_groups=attn_groups,
            num_reqs=len(seen),
            num_tokens=input_batch.num_tokens,
            query_start_loc_gpu=starts,
            query_start_loc_cpu=starts_cpu,
            max_query_len=most,
            seq_lens=seen,
            max_seq_len=self.max_model_len,
            block_tables=block_tables,
            slot_mappings=slot_mappings,
            kv_cache_config=kv_cache_config,
            positions=input_batch.positions,
            for_cudagraph_capture=for_capture,
            causal=False,
            ubatch_idx=ubatch_idx,
        )


def decoding(input_batch: Any) -> int:
    """How many requests of a batch have a block that decodes; they are its first ones."""
    drafts = input_batch.num_draft_tokens_per_req
    return 0 if drafts is None else int(np.count_nonzero(drafts))


def sequences(
    computed: np.ndarray, scheduled: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sequence per block: of which request each is [s], where its queries begin [s + 1], and
    how many positions it sees [s].

    computed, scheduled: [n], a request's positions before this forward, a multiple of `length`, and
    those in it.
    """
    blocks = -(-scheduled // length)
    of = np.repeat(np.arange(len(blocks)), blocks)
    number = np.arange(len(of)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    queries = np.minimum(length, scheduled[of] - number * length)
    starts = np.concatenate(([0], np.cumsum(queries))).astype(np.int32)
    return of, starts, (computed[of] + number * length + queries).astype(np.int32)
