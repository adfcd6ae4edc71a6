"""The decision of a step for all blocks of a batch, in the place of vLLM's sampler."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from fastedit import policies
from fastedit.integrations.places import Place, together
from fastedit.integrations.vllm.settings import Asked, Settings

logger = init_logger(__name__)


class BlockSampler:
    """Keeps the block of every request, by the slot that vLLM gave it.

    A block is handed over when a forward has seen its final ids, so that its keys and values are
    final too. Until then vLLM is told that all of it was rejected, and given the ids of the next
    forward as draft tokens.
    """

    # What the model runner reads of any sampler.
    penalties_state = SimpleNamespace(output_bin_counts=None)
    compute_nans = True

    def __init__(self, sampler: Any, settings: Settings, length: int) -> None:
        self.sampling_states, self.req_states = sampler.sampling_states, sampler.req_states
        self.settings, self.length = settings, length
        self.mask_token_id = settings.mask_token_id
        self.drafts: Tensor = self.req_states.draft_tokens
        self.places: dict[int, Place] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        """Nothing: `open` has all of the request."""

    def apply_staged_writes(self) -> None:
        pass

    def open(self, slot: int, request: Any) -> None:
        """Begin the block behind the whole ones that a request has, with what there is of it."""
        ids = request.prefill_token_ids
        start = len(ids) - len(ids) % self.length
        tail = torch.tensor(ids[start:], device=self.drafts.device)
        asked, fails = self._asked(request)
        seed = asked.config.seed if isinstance(asked.config.seed, int) else seed_of(request.req_id)
        block = torch.full((1, self.length), self.mask_token_id, device=self.drafts.device)
        block[0, : len(tail)] = tail
        editable = torch.arange(self.length, device=block.device)[None] >= len(tail)
        state = policies.open(
            asked.policy,
            block,
            editable,
            mask_token_id=self.mask_token_id,
            seed=seed,
            start=start,
            temperature=asked.config.temperature,
            strict_reference=asked.config.strict_reference,
        )
        state.vocab = self.req_states.vocab_size
        state.bad.fill_(fails)
        if state.draws:
            state.sampling.top_k.fill_(min(max(asked.config.top_k or 0, 0), state.vocab))
            state.sampling.top_p.fill_(1.0 if asked.config.top_p is None else asked.config.top_p)
        state.ids.copy_(torch.where(editable, state.policy.open(state), block))
        self.drafts[slot, : self.length - len(tail)] = state.shown()[0, len(tail) :]
        self.places[slot] = Place(state, 0)

    def _asked(self, request: Any) -> tuple[Asked, bool]:
        """What a request asked for, and whether it fails: one that nobody checked may be wrong."""
        params = request.sampling_params
        try:
            return self.settings.asked(params.extra_args if params else None), False
        except ValueError as error:
            logger.error("Request %s ends: %s", request.req_id, error)
            return self.settings.asked(None), True

    def close(self, slot: int) -> None:
        self.places.pop(slot, None)

    def __call__(self, logits: Tensor, input_batch: Any) -> SamplerOutput:
        """One decision for the blocks that this forward has computed; logits [blocks * L, V]."""
        requests, device = input_batch.num_reqs, logits.device
        sampled = torch.zeros(requests, self.length, dtype=torch.int32, device=device)
        counts = torch.zeros(3, requests, dtype=torch.int32, device=device)
        slots = input_batch.idx_mapping_np[:requests].tolist()
        drafts = input_batch.num_draft_tokens_per_req
        widths = [] if drafts is None else [int(width) for width in drafts if width]
        for lane in self.lanes(slots[: len(widths)]):
            self._step(lane, slots, widths, logits, sampled, counts)
        counts[1, len(widths) :] = self._ahead(input_batch, len(widths)).to(device)
        num_sampled, num_rejected, bad = counts
        return SamplerOutput(sampled, None, bad, num_sampled, num_rejected)

    def lanes(self, slots: list[int]) -> list[list[int]]:
        """Places in the batch of the blocks that are decided together."""
        found: dict[Any, list[int]] = {}
        for row, slot in enumerate(slots):
            state = self.places[slot].state
            found.setdefault((state.policy.static(), state.strict), []).append(row)
        return list(found.values())

    def _step(
        self,
        lane: list[int],
        slots: list[int],
        widths: list[int],
        logits: Tensor,
        sampled: Tensor,
        counts: Tensor,
    ) -> None:
        blocks = logits.view(len(widths), self.length, -1)
        rows: Any = slice(len(lane))
        if len(lane) < len(widths):
            rows = torch.tensor(lane, device=logits.device)
            blocks = blocks[rows]
        state = together([self.places[slots[row]] for row in lane])
        held = state.done.clone()
        policies.step_(state, blocks)
        over = state.done & (held | ~state.dirty) & ~state.bad
        width = torch.tensor([widths[row] for row in lane], device=logits.device)
        tail = self.length - width
        sampled[rows] = self._behind(state.ids, tail).int()
        counts[0, rows] = torch.where(over, width, 0).int()
        counts[1, rows] = torch.where(over, 0, self.length).int()
        counts[2, rows] = state.bad.int()
        state.reset(over)
        state.sampling.start.add_(over, alpha=self.length)
        state.ids.copy_(torch.where(over[:, None], state.policy.open(state), state.ids))
        state.editable.logical_or_(over[:, None])
        where = torch.tensor([slots[row] for row in lane], device=logits.device)
        self.drafts[where, : self.length] = self._behind(state.shown(), torch.where(over, 0, tail))

    def _behind(self, ids: Tensor, tail: Tensor) -> Tensor:
        """Ids [n, L] without the first `tail` [n] ones, from the left; what is behind is filler."""
        places = torch.arange(self.length, device=ids.device) + tail[:, None]
        return ids.gather(1, places.clamp(max=self.length - 1))

    def _ahead(self, input_batch: Any, first: int) -> Tensor:
        """Of prompts [n], the tokens behind the last whole block where this forward had them."""
        before = input_batch.num_computed_prefill_tokens_np[first:]
        known = input_batch.prefill_len_np[first:]
        ended = before + input_batch.num_scheduled_tokens[first:] >= known
        return torch.from_numpy(known * ended % self.length).int()


def seed_of(name: str) -> int:
    """Of a request that gave none: the same on every device that takes part."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
