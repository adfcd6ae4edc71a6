"""diffusers' door: a `BlockRefinementScheduler` whose decision is ours.

    pipe = LLaDA2Pipeline.from_pretrained(...)
    pipe.scheduler = FastEditScheduler.from_config(pipe.scheduler.config)

The logits are read once, without a row of probabilities, and nothing is read back to the host; the
loop around it is the pipeline's.
Source: diffusers 0.42.1, `schedulers/scheduling_block_refinement.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastedit import ops

try:
    from diffusers.schedulers.scheduling_block_refinement import (
        BlockRefinementScheduler,
        BlockRefinementSchedulerOutput,
    )
except ImportError as error:
    raise ImportError(
        "FastEditScheduler needs a diffusers with BlockRefinementScheduler, such as 0.42: "
        f"pip install 'diffusers>=0.42' ({error})"
    ) from error

_METHODS = ("auto", "greedy", "multinomial")


class FastEditScheduler(BlockRefinementScheduler):
    """Takes what `BlockRefinementScheduler` takes, and decides what it decides, but for this:

    - the mask is never filled in or written over a token;
    - ties of confidence go to the lowest position, where `torch.topk` promises nothing;
    - draws are keyed by a number that `generator` gives for each row, the timestep and the
      position, so they are others than those of `torch.multinomial`.

    Without a mask token, in the mode of uniform noise, it is `BlockRefinementScheduler` itself.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One decision on a block; arguments and results as in `BlockRefinementScheduler.step`.

        model_output [B, L, V] fp32, bf16 or fp16; sample [B, L] int64; prompt_mask [L] bool. Fills
        need `set_timesteps` first; `editing_threshold` 0 or None is off; `minimal_topk` says
        nothing here.
        """
        if mask_token_id is None:
            return super().step(
                model_output,
                timestep,
                sample,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                sampling_method=sampling_method,
                threshold=threshold,
                editing_threshold=editing_threshold,
                minimal_topk=minimal_topk,
                prompt_mask=prompt_mask,
                generator=generator,
                return_dict=return_dict,
            )
        fill_above = self.config.threshold if threshold is None else threshold
        edit_above = (
            self.config.editing_threshold if editing_threshold is None else editing_threshold
        )
        step = int(timestep)
        draws = None
        if _draws(temperature, sampling_method):
            draws = _keys(sample, step, top_k, top_p, generator)
        rows = ops.row_stats(
            model_output,
            sample,
            forbid=[mask_token_id] if 0 <= mask_token_id < model_output.shape[-1] else [],
            temperature=temperature if draws is not None else 1.0,
            draws=draws,
        )
        token, prob = rows.token, rows.prob
        if rows.sample is not None and rows.sample_prob is not None:
            token, prob = rows.sample, rows.sample_prob

        masked = sample == mask_token_id
        fill = torch.zeros_like(masked)
        if self._transfer_schedule is not None:
            count = self._transfer_schedule[min(step, len(self._transfer_schedule) - 1)]
            above = torch.full(
                sample.shape[:1], fill_above, dtype=torch.float32, device=sample.device
            )
            fill = ops.highest(prob, masked, count.expand(len(sample)), above=above)
        edit = torch.zeros_like(masked)
        if edit_above is not None and edit_above > 0.0:
            edit = ~masked & (prob > edit_above) & (token != sample)
            if prompt_mask is not None:
                edit &= ~prompt_mask
        found = (torch.where(fill | edit, token, sample), fill, edit, token, prob, model_output)
        return BlockRefinementSchedulerOutput(*found) if return_dict else found


def _draws(temperature: float, method: str) -> bool:
    """Whether tokens are drawn. Raises ValueError."""
    if not temperature >= 0:  # NaN is not
        raise ValueError(f"temperature must be >= 0, got {temperature}")
    if method not in _METHODS:
        raise ValueError(f"sampling_method={method!r} must be {' or '.join(_METHODS)}")
    return temperature > 0.0 and method != "greedy"


def _keys(
    sample: Tensor,
    step: int,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> ops.RowDraws:
    """Of a draw per position; `generator` moves on by a number per row."""
    if top_p is not None and not top_p > 0.0:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    device = sample.device
    home = device if generator is None else generator.device
    seed = torch.randint(2**62, (len(sample), 1), generator=generator, device=home).to(device)

    def all_(value: float, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full((1, 1), value, dtype=dtype, device=device).expand(sample.shape)

    return ops.RowDraws(
        seed.expand(sample.shape),
        torch.arange(sample.shape[1], device=device).expand(sample.shape),
        all_(step),
        all_(max(top_k or 0, 0)),
        all_(1.0 if top_p is None else top_p, torch.float32),
    )
