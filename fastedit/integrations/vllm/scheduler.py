"""vLLM's scheduler in blocks: what it schedules ends where a block ends."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.diffusion_scheduler import DiffusionScheduler
from vllm.v1.request import Request, RequestStatus

from fastedit.integrations.vllm import check_has

check_has("vllm.v1.core.sched.scheduler", "Scheduler._reserve_prefill_lookahead")


class BlockScheduler(DiffusionScheduler):
    """A request's next forward is whole blocks of its prompt, or the block it decodes.

    A prompt's tail, what is behind its last whole block, is computed with the block that decodes in
    every forward of it. For vLLM these are prompt tokens, of which there are some left to compute,
    and draft tokens behind them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.length = self.num_spec_tokens
        if self.max_model_len % self.length:
            raise ValueError(
                f"max_model_len={self.max_model_len} must be a multiple of the model's block "
                f"length, {self.length}"
            )

    def schedule(self, throttle_prefills: bool = False) -> Any:
        for request in self.running:
            known = request.num_tokens - request.num_computed_tokens
            request.spec_token_ids = [-1] * max(self.length - known, 0)
        return super().schedule(throttle_prefills)

    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """So many tokens that they end with a block, or with all that is known of the request."""
        end = num_computed_tokens + num_new_tokens
        if end != request.num_tokens:
            end -= end % self.length
        return max(end - num_computed_tokens, 0)

    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        """Nothing: the worker keeps the ids of blocks."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        bad = model_runner_output.num_nans_in_logits or {}
        # vLLM has one place for requests that end with an error behind a step.
        self.grammar_compile_error_reqs.update(name for name, count in bad.items() if count)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for name in scheduler_output.num_scheduled_tokens:
            request = self.requests.get(name)
            if request is not None and request.status == RequestStatus.RUNNING:
                # The block that decodes next is computed from its first position on.
                whole = request.num_tokens - request.num_tokens % self.length
                request.num_computed_tokens = min(request.num_computed_tokens, whole)
        return outputs
