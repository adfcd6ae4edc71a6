"""ReMDM: tokens become masks again by chance, so that a schedule may run longer and repair itself.

Source: arXiv 2503.00307; the released samplers of kuleshov-group/remdm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer, probability
from fastedit.policies.planes import Planes
from fastedit.policies.primitives import chances, running_sums
from fastedit.policies.registry import register

ETA = {"cap": 0.008, "rescale": 0.015, "conf": 1.0, "loop": 0.02}
_TINY = 1e-12


@register("remdm")
@dataclass(frozen=True)
class ReMDM(Policy):
    """The share of tokens rises with every forward, as MDLM's; a token becomes a mask with chance
    sigma, and masks are filled with draws a little faster to make up for it.

    variant      what sigma is of the largest that the schedule allows, sigma_max
                 "cap": at most `eta`; "rescale": `eta` times it
                 "conf": `eta` times it, spread over the block's tokens: more for those that were
                 improbable when they were filled. A token of a draft counts as quite improbable
                 "loop": at most `eta`, while time is in (t_off, t_on] and the share of tokens is
                 held at `alpha_on`; 0 outside
    eta          None = the paper's for the variant: 0.008, 0.015, 1, 0.02
    steps        forwards that a block takes; None = as many as it has positions
    t_on, t_off, alpha_on  of "loop"; time falls from 1 to 0
    top_p        draws are from the likeliest tokens, up to this probability

    Draws are at temperature 1 unless the request has another. With eta = 0 this is MDLM.
    """

    variant: str = choice("cap", "rescale", "conf", "loop")
    eta: float | None = probability(None, optional=True, absent=-1.0)
    steps: int | None = integer(None, least=1, optional=True, span=(1, 32))
    t_on: float = probability(0.55)
    t_off: float = probability(0.05)
    alpha_on: float = probability(0.9)
    top_p: float = probability(0.9)

    needs = frozenset({"sample"})
    reads_tokens = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "loop" and self.t_off > self.t_on:
            raise ValueError(f"t_off must be at most t_on={self.t_on}; got {self.t_off}")

    @property
    def buffers(self) -> Mapping[str, Buffer]:  # type: ignore[override]
        return {"filled_with": Buffer(torch.float32)} if self.variant == "conf" else {}

    def nucleus(self, view: View) -> Tensor:
        return view.parameters.top_p

    def rule(self, stats: Stats, view: View) -> Write:
        assert stats.sample is not None and stats.sample_prob is not None
        masked, _, masks, held = view.contents()
        remask, fill, last = self.rates(view, masked)
        change = chances(view) < torch.where(masked, fill, remask)
        new = torch.where(masked, stats.sample, view.mask_token_id)
        ids = torch.where(change, new, view.ids)
        last = last | (masks + held == 0)  # nothing to wait for
        if self.variant != "conf":
            return Write(ids, last)
        held = torch.where(change & masked, stats.sample_prob, view.buffers.filled_with)
        return Write(ids, last, {"filled_with": held})

    def rates(self, view: View, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chances that tokens become masks, and masks tokens, [n, 1] or [n, L]; last forwards [n].

        now, after: the shares of tokens before and behind this forward.
        """
        p, forward = view.parameters, view.counts.forwards
        left = torch.where(p.steps > 0, p.steps, view.length) - forward
        steps, last = left + forward, left <= 1
        time, then = left / steps, (left - 1) / steps
        eta = torch.where(p.eta < 0.0, ETA[self.variant], p.eta)
        if self.variant == "loop":
            still = (p.t_off < time) & (time <= p.t_on) & ~last
            now = _share(time, p)
            after = torch.where(still, now, _share(then, p))
            eta = eta * still
        else:
            now, after = 1.0 - time, 1.0 - then
        most = ((1.0 - after) / now.clamp(min=_TINY)).clamp_(max=1.0)
        spread = self.variant in ("rescale", "conf")
        sigma = eta * most if spread else torch.minimum(eta, most)
        made_up = 0.0 if self.variant == "conf" else sigma * now
        fill = (after - now + made_up) / (1.0 - now).clamp_(min=_TINY)
        fill, sigma = torch.where(last, 1.0, fill)[:, None], sigma[:, None]
        if self.variant == "conf":
            doubt = (-view.buffers.filled_with).exp() * view.contents().tokens
            sigma = sigma * doubt / running_sums(doubt)[:, -1:].clamp(min=_TINY)
        return sigma, fill, last

    def unread(self) -> frozenset[str]:
        of_loop = frozenset({"t_on", "t_off", "alpha_on"})
        return frozenset() if self.variant == "loop" else of_loop

    def most_forwards(self, length: int) -> int:
        return self.steps or length


def _share(time: Tensor, p: Planes) -> Tensor:
    """Of tokens under "loop": up to `alpha_on` while time falls to t_on, up to 1 from t_off on."""
    up = ((1.0 - time) / (1.0 - p.t_on).clamp(min=_TINY)).clamp_(max=1.0)
    rest = (1.0 - time / p.t_off.clamp(min=_TINY)).clamp_(min=0.0)
    return p.alpha_on * up + (1.0 - p.alpha_on) * rest
