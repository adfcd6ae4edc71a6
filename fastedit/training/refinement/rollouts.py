"""Drafts of the edit stage: masks filled in random order, then edited, without gradient.

Every decision is `policies.MEDLM`'s; only which masks a forward fills is another, as in the
released trainer (`mask_diffusion` of renhouxing/ME-DLM, `utils/edit_trainer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastedit import policies
from fastedit.ops import highest
from fastedit.policies import MEDLM, Buffer, State, View
from fastedit.policies.fields import integer

# Logits of one head in a forward: 1 GiB in fp32.
LOGITS = 1 << 28

# ids [n, W], of which the first `lengths` [n] count, and whether the second head is needed ->
# logits [n, W, V] of both
Heads = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Rollout(MEDLM):
    """ME-DLM's rule, but a forward fills `count` masks: those that are lowest in `order`."""

    count: int = integer(2, least=1)

    buffers: ClassVar[Mapping[str, Buffer]] = {**MEDLM.buffers, "order": Buffer(torch.float32)}

    def filled(self, score: Tensor, masks: Tensor, view: View) -> Tensor:
        return highest(-view.buffers.order, view.contents().masked, view.parameters.count)


class Begun(NamedTuple):
    """A document whose answer is to be drafted.

    ids     [n] int64  prompt and answer, masks among them
    order   [n] fp32   in which they are filled
    prompt  tokens in front that stay
    most    tokens that it may have at most
    rule    how it goes on; where nothing is masked, its forwards edit
    """

    ids: Tensor
    order: Tensor
    prompt: int
    most: int
    rule: Rollout


def drafted(
    begun: Sequence[Begun], heads: Heads, *, mask_token_id: int, vocab: int, device: torch.device
) -> list[Tensor]:
    """The answers [m] int64 as they are after the forwards of their rules, in order; on the CPU.

    vocab   logits of a position, which say how many documents a forward takes
    device  of the model
    """
    drafts: list[Tensor] = [document.ids for document in begun]
    for numbers in _groups(begun, vocab):
        group = [begun[number] for number in numbers]
        state = _opened(group, mask_token_id, device)
        _run(state, heads)
        assert state.lengths is not None
        for number, ids, end in zip(numbers, state.ids.cpu(), state.lengths.tolist(), strict=True):
            drafts[number] = ids[begun[number].prompt : end]
    return drafts


def _groups(begun: Sequence[Begun], vocab: int) -> Iterator[list[int]]:
    """Which documents are drafted together: those that take as many forwards."""

    def forwards(number: int) -> int:
        return begun[number].rule.most_forwards(0)

    group: list[int] = []
    width = 0
    for number in sorted(range(len(begun)), key=forwards):
        wider = max(width, begun[number].most)
        if group and (len(group) + 1) * wider * vocab > LOGITS:
            yield group
            group, wider = [], begun[number].most
        group.append(number)
        width = wider
    if group:
        yield group


def _run(state: State, heads: Heads) -> None:
    """Forwards and decisions until all are done, those that are done left out of the forwards."""
    while True:
        live = ~state.done
        wants = (state.policy.wants_next(state) & live).any()
        going, wanted = torch.stack([live.any(), wants]).tolist()
        if not going:
            return
        assert state.lengths is not None
        first, second = heads(state.ids[live], state.lengths[live], wanted)
        following = None if second is None else _placed(second, live)
        policies.step_(state, _placed(first, live), next_logits=following)


def _opened(group: Sequence[Begun], mask_token_id: int, device: torch.device) -> State:
    """Their state, each under its own rule."""
    lengths = [len(document.ids) for document in group]
    ids, order = (
        pad_sequence(list(rows), batch_first=True).to(device)
        for rows in zip(*((document.ids, document.order) for document in group), strict=True)
    )
    prompts, most = torch.tensor([[d.prompt, d.most] for d in group], device=device).unbind(1)
    editable = torch.arange(ids.shape[1], device=device) >= prompts[:, None]
    state = policies.open(
        group[0].rule, ids, editable, mask_token_id=mask_token_id, lengths=lengths
    )
    assert state.limits is not None
    state.limits.copy_(most)
    state.buffers.order.copy_(order)
    state.set_policies(slice(len(group)), [document.rule for document in group], 0)
    for number, document in enumerate(group):
        if not document.rule.edit_steps and mask_token_id not in document.ids:
            state.done[number] = True
    return state


def _placed(logits: Tensor, live: Tensor) -> Tensor:
    """Logits [n, W, V] of the documents that are `live` [N], as those of all [N, W, V]."""
    if len(logits) == len(live):
        return logits
    placed = logits.new_zeros(len(live), *logits.shape[1:])
    placed[live] = logits
    return placed
