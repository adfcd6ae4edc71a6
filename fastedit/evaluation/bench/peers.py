"""Who takes part: fastedit's back ends, the plain rule, SGLang's step, diffusers' scheduler.

Every one decides the same case. What a step changes in place is made anew, untimed, for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastedit import __version__, ops
from fastedit.evaluation.bench.case import (
    EDITING_THRESHOLD,
    LENGTH,
    MAX_POST_STEPS,
    THRESHOLD,
    Case,
)


@dataclass(frozen=True)
class Outcome:
    """ids [B, L] after the step; per block whether it is done, and whether it changed, if told."""

    ids: Tensor
    done: Tensor | Sequence[bool] | None = None
    changed: Tensor | None = None


@dataclass(frozen=True)
class Run:
    """One step, ready to go: takes logits [B, L, V]. `mutated`: what it changes in place."""

    step: Callable[[Tensor], Outcome]
    mutated: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Competitor:
    """One side of the comparison.

    begin       makes a run, untimed
    exact       outputs must be equal; else positions that differ are counted
    capturable  never synchronises, so a CUDA graph can hold it
    setting     what is in force around a run, untimed
    """

    name: str
    version: str
    begin: Callable[[], Run]
    ours: bool = False
    exact: bool = True
    capturable: bool = False
    setting: Callable[[], AbstractContextManager] = nullcontext


def competitors(case: Case) -> tuple[list[Competitor], dict[str, str]]:
    """Those that can run here, fastedit's default back end first; and why the others cannot."""
    taking_part, missing = [], {}
    states = ops.backend_report(case.device.type)["joint_threshold_step_"]
    if case.device.type == "cpu":
        states["triton"] = "for GPUs; on a CPU only its interpreter runs"
    for backend, state in states.items():
        competitor = fastedit_backend(backend, case)
        if state in ("in use", "available, not chosen"):
            taking_part.append(competitor)
        else:
            missing[competitor.name] = state
    for name, make in PEERS.items():
        try:
            taking_part.append(make(name, case))
        except Exception as error:  # another release of a peer may fail in any way
            missing[name] = reason(error)
    return taking_part, missing


def reason(error: Exception) -> str:
    """One line."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"


def fastedit_backend(backend: str, case: Case) -> Competitor:
    size, device = (case.blocks,), case.device
    settings: dict[str, Any] = {
        "threshold": torch.full(size, THRESHOLD, device=device),
        "editing_threshold": torch.full(size, EDITING_THRESHOLD, device=device),
        "max_post_steps": torch.full(size, MAX_POST_STEPS, dtype=torch.int32, device=device),
        "num_to_transfer": torch.ones(size, dtype=torch.int32, device=device),
    }

    def begin() -> Run:
        ids, state = case.ids.clone(), ops.StepState.new(case.blocks, device)

        def step(logits: Tensor) -> Outcome:
            ops.joint_threshold_step_(
                ids, logits, case.editable, state, mask_token_id=case.mask_token_id, **settings
            )
            return Outcome(ids, state.done, state.dirty)

        return Run(step, (ids, *state.fields()))

    return Competitor(
        f"fastedit {backend}",
        f"fastedit {__version__}",
        begin,
        ours=True,
        capturable=True,
        setting=partial(ops.use_backend, backend),
    )


def plain_step(
    logits: Tensor, ids: Tensor, editable: Tensor, mask_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The published rule in plain torch: new ids [B, L]; done and changed [B]."""
    confidence, token = logits.float().softmax(-1).max(-1)
    masked = (ids == mask_token_id) & editable
    ranked = torch.where(masked, confidence, -1.0)
    above = ranked > THRESHOLD
    best = torch.arange(ids.shape[1], device=ids.device) == ranked.argmax(-1, keepdim=True)
    commit = masked & torch.where(above.any(-1, keepdim=True), above, best)
    edit = editable & ~masked & (confidence > EDITING_THRESHOLD) & (token != ids)
    changed = (commit | edit).any(-1)
    return torch.where(commit | edit, token, ids), ~masked.any(-1) & ~changed, changed


def _plain(name: str, case: Case, rule: Callable = plain_step) -> Competitor:
    def step(logits: Tensor) -> Outcome:
        return Outcome(*rule(logits, case.ids, case.editable, case.mask_token_id))

    return Competitor(name, f"torch {torch.__version__}", lambda: Run(step), capturable=True)


def _compiled(name: str, case: Case) -> Competitor:
    torch.compiler.reset()  # compiled for the shapes of this case alone
    return _plain(name, case, torch.compile(plain_step, dynamic=False, fullgraph=True))


def _sglang(name: str, case: Case, vectorized: bool) -> Competitor:
    """`JointThreshold.step` on a stand-in for its forward batch, which holds the ids."""
    from fastedit.evaluation.bench.sglang_step import algorithm as released

    module = released("joint_threshold")
    algorithm = module.Algorithm(
        module.DllmConfig(
            algorithm="JointThreshold",
            algorithm_config={
                "threshold": THRESHOLD,
                "edit_threshold": EDITING_THRESHOLD,
                "max_post_edit_steps": MAX_POST_STEPS,
                "vectorized_decoding": vectorized,
            },
            block_size=LENGTH,
            mask_id=case.mask_token_id,
            max_running_requests=case.blocks,
        )
    )

    def begin() -> Run:
        ids = case.ids.clone()
        batch = SimpleNamespace(
            batch_size=case.blocks, input_ids=ids.view(-1), dllm_prompt_mask=~case.editable
        )
        states = algorithm.init_step_state(batch)

        def step(logits: Tensor) -> Outcome:
            return Outcome(ids, algorithm.step(batch, logits.view(-1, case.vocab), states))

        return Run(step, (ids,))

    # Its softmax runs in the dtype of the logits, and bf16 has eight bits for a probability.
    exact = case.dtype == torch.float32
    return Competitor(name, f"sglang {metadata.version('sglang')}", begin, exact=exact)


def _diffusers(name: str, case: Case) -> Competitor:
    """`BlockRefinementScheduler.step` with one inference step per position: a floor of one."""
    try:
        from diffusers.schedulers.scheduling_block_refinement import BlockRefinementScheduler
    except ImportError as error:
        raise ImportError(
            "needs a diffusers with BlockRefinementScheduler: pip install diffusers"
        ) from error
    scheduler = BlockRefinementScheduler(block_length=LENGTH)
    scheduler.set_timesteps(LENGTH, device=case.device)
    prompt = ~case.editable[0]

    def step(logits: Tensor) -> Outcome:
        ids, filled, edited, *_ = scheduler.step(
            logits,
            0,
            case.ids,
            mask_token_id=case.mask_token_id,
            threshold=THRESHOLD,
            editing_threshold=EDITING_THRESHOLD,
            prompt_mask=prompt,
            return_dict=False,
        )
        return Outcome(ids, changed=(filled | edited).any(-1))

    return Competitor(name, f"diffusers {metadata.version('diffusers')}", lambda: Run(step))


PEERS: dict[str, Callable[[str, Case], Competitor]] = {
    "plain torch": _plain,
    "torch.compile": _compiled,
    "sglang per row": partial(_sglang, vectorized=False),
    "sglang vectorised": partial(_sglang, vectorized=True),
    "diffusers": _diffusers,
}
