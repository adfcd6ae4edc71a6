"""Drafts that the model goes on decoding, inserts and deletes among its decisions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastedit import policies
from fastedit.policies import Policy
from fastedit.training.loss.head import LOGITS, readable, vocabulary


class Rollout:
    """The blocks of a noisy copy under a policy, from a first step to as many as are asked for.

    ids    [B, L] int64  as they are by now
    where  [B, L] bool   the blocks with a response, all of each; outside of it nothing changes
    """

    def __init__(
        self,
        ids: Tensor,
        response: Tensor,
        policy: Policy,
        *,
        block_size: int,
        mask_token_id: int,
    ) -> None:
        self.ids = ids
        blocks = response.unflatten(1, (-1, block_size)).any(-1)
        self.where = blocks.repeat_interleave(block_size, dim=1)
        held, editable = (x[self.where].view(-1, block_size) for x in (ids, response))
        self.state = policies.open(policy, held, editable, mask_token_id=mask_token_id)

    @torch.no_grad()
    def decide(self, hidden: Tensor, head: nn.Module) -> None:
        """One greedy decision on every block, by the states [N, H] that predict `where`."""
        blocks, length = self.state.ids.shape
        states = hidden.view(blocks, length, hidden.shape[-1])
        size = max(1, LOGITS // (vocabulary(head) * length))
        for start in range(0, blocks, size):
            part = slice(start, start + size)
            policies.step_(self.state[part], readable(head(states[part])))
        self.ids = self.ids.masked_scatter(self.where, self.state.ids)

    def begin(self, ids: Tensor, drafted: Tensor) -> None:
        """Let the blocks with a True in `drafted` [B, L] begin anew, from `ids` [B, L]."""
        rows = drafted[self.where].view_as(self.state.ids).any(-1)
        given = ids[self.where].view_as(self.state.ids)
        self.state.ids.copy_(torch.where(rows[:, None], given, self.state.ids))
        self.state.reset(rows)
        self.ids = self.ids.masked_scatter(self.where, self.state.ids)
