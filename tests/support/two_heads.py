"""ME-DLM's scripted model: the logits of two heads are hashes of the ids around a position.

32-bit unsigned arithmetic; `h(v1, .., vk)` starts from 0x811C9DC5 and mixes each v in. With w(k)
the id at place k of the sequence, 65535 outside it:

    c = h(seed, j mod pos_mod, w(j-2), w(j-1), w(j), w(j+1), w(j+2))
    head 1: (32 (h(c, 1000+v) mod 256) + v) / 8192 - [v < 3], and a peak at T1 with rivals PAD, DEL
    head 2: the same with 2000+v, and a peak at T2, mostly the next position's T1

PAD 0, MASK 1, DEL 2, EOS 3. All values are exact in fp32, no two of a row are equal.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

PAD, MASK, DEL, EOS = 0, 1, 2, 3
OUTSIDE = 65535
_LOW = 0xFFFFFFFF


def h(*values: Tensor | int) -> Tensor:
    """int64 tensors of 32-bit values, broadcast against each other."""
    a = torch.tensor(0x811C9DC5)
    for v in values:
        a = ((a ^ v) * 0x01000193) & _LOW
        a = a ^ (a >> 15)
        a = (a * 0x2C1B3C6D) & _LOW
        a = a ^ (a >> 12)
    return a


def contexts(model: dict[str, Any], ids: Tensor, lengths: Tensor) -> Tensor:
    """c of every position, int64 [n, L]; ids [n, L] of which the first `lengths` [n] count."""
    place = torch.arange(ids.shape[1])
    inside = torch.where(place < lengths[:, None], ids, OUTSIDE)
    wide = nn.functional.pad(inside, (2, 2), value=OUTSIDE)
    around = [wide[:, k : k + ids.shape[1]] for k in range(5)]
    return h(model["seed"], (place % model["pos_mod"]).expand_as(ids), *around)


def tops(model: dict[str, Any], ids: Tensor, lengths: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """T1 and T2, int64 [n, L] each."""
    vocab = model["V"]
    others = 4 + h(c, 102) % (vocab - 4)
    fill = [torch.full_like(ids, i) for i in (PAD, DEL, EOS, MASK)]
    edit = [ids, *[torch.full_like(ids, i) for i in (DEL, EOS, MASK, PAD)]]

    def walk(shares: list[int], tokens: list[Tensor]) -> Tensor:
        r, found = h(c, 101) % 100, torch.full_like(ids, -1)
        for share, token in zip(shares, tokens, strict=True):
            hit = (r < share) & (found < 0)
            found = torch.where(hit, token, found)
            r = torch.where(found < 0, r - share, r)
        return torch.where(found < 0, others, found)

    first = torch.where(ids == MASK, walk(model["fill"], fill), walk(model["edit"], edit))
    place = torch.arange(ids.shape[1])
    agrees = (place + 1 < lengths[:, None]) & (h(c, 201) % 100 < model["agree"])
    special = h(c, 204) % 100 < model["special2"]
    drawn = torch.where(special, h(c, 202) % vocab, 3 + h(c, 202) % (vocab - 3))
    return first, torch.where(agrees, nn.functional.pad(first[:, 1:], (0, 1)), drawn)


def logits(model: dict[str, Any], ids: Tensor, lengths: Tensor | None = None):
    """Of both heads, fp32 [n, L, V] each."""
    if lengths is None:
        lengths = torch.full((len(ids),), ids.shape[1])
    c = contexts(model, ids, lengths)
    first, second = tops(model, ids, lengths, c)
    vocab = torch.arange(model["V"])
    one, two = (
        (32 * (h(c[..., None], base + vocab) % 256) + vocab) / 8192 - (vocab < 3) * 1.0
        for base in (1000, 2000)
    )
    peak = 2 + (h(c, 103) % 64) / 16
    one.scatter_add_(-1, first[..., None], peak[..., None])
    for token, salt in ((PAD, 105), (DEL, 106)):
        rival = (first >= 3) & (h(c, salt) % 100 < model["rival"])
        one[..., token] += torch.where(rival, peak - 0.5, 0.0)
    two.scatter_add_(-1, second[..., None], (2 + (h(c, 203) % 64) / 16)[..., None])
    return one, two


class TwoHeads(nn.Module):
    """The model contract over the scripted logits; what a row of the batch may see is a sequence,
    or a row is several, end to end.

    calls  input ids of every forward, cut to what is seen of each row
    packs  whether it may be given several
    """

    def __init__(self, model: dict[str, Any], packs: bool = False) -> None:
        super().__init__()
        self.model, self.packs, self.calls = model, packs, []
        self.config = SimpleNamespace(vocab_size=model["V"])

    def packs_texts(self) -> bool:
        return self.packs

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: None = None,
        use_cache: bool = False,
        text_lengths: list[int] | None = None,
    ) -> SimpleNamespace:
        assert past_key_values is None and not use_cache
        if text_lengths is not None:
            assert self.packs and attention_mask is None and len(input_ids) == 1
            return self.packed(input_ids[0].split(text_lengths), position_ids[0])
        lengths = attention_mask[:, 0, 0].sum(-1)
        self.calls += [
            row[:length].tolist() for row, length in zip(input_ids, lengths, strict=True)
        ]
        one, two = logits(self.model, input_ids, lengths)
        return SimpleNamespace(logits=one, next_logits=two)

    def packed(self, texts: tuple[Tensor, ...], positions: Tensor) -> SimpleNamespace:
        """Of texts that stand end to end."""
        assert positions.equal(torch.cat([torch.arange(len(text)) for text in texts]))
        self.calls += [text.tolist() for text in texts]
        both = [logits(self.model, text[None]) for text in texts]
        one, two = (torch.cat(each, dim=1) for each in zip(*both, strict=True))
        return SimpleNamespace(logits=one, next_logits=two)
