"""`FastEdit` for SGLang's loops, and its `JointThreshold` with our step.

A batch's blocks are one `policies.State`, so a step is one decision for all of them and one read of
flags. SGLang carries a state per request: it is a place in such a batch, and only when requests
have come or gone are the blocks gathered anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from sglang.srt.dllm.algorithm.base import DllmAlgorithm
from torch import Tensor

from fastedit import policies
from fastedit.integrations.places import Place, together
from fastedit.policies import Policy
from fastedit.policies.registry import given_in

logger = logging.getLogger(__name__)

# SGLang's names of what policies call otherwise, and its defaults, where ours differ.
SPELLINGS = {
    "edit_threshold": "editing_threshold",
    "max_post_edit_steps": "max_post_steps",
    "split_token_id": "insert_token_id",
}
DEFAULTS = {"threshold": 0.5, "editing_threshold": 0.0}
# What SGLang itself reads, and what says how its own step is computed.
OTHERS = {"block_size", "capture_input_preparation", "vectorized_decoding"}
RETURNS_TENSOR = "Tensor" in str(inspect.signature(DllmAlgorithm.step).return_annotation)


class FastEdit(DllmAlgorithm):
    """Decodes by any policy that decides on a block's logits alone.

    Keys of `--dllm-algorithm-config`: `policy`, as in DecodeConfig (default joint_threshold); the
    parameters of that policy, by our names or SGLang's (`edit_threshold`, `max_post_edit_steps`,
    `split_token_id`); `strict_reference`. joint_threshold and joint_threshold_indel, named without
    parameters, have SGLang's defaults of them: threshold 0.5, editing_threshold 0.

    Raises ValueError for another key, and for a policy that needs more than logits of a block.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        settings = dict(config.algorithm_config)
        self.strict = settings.pop("strict_reference", False)
        self.policy = chosen_policy(settings)

    def max_steps(self, block_size: int) -> int:
        """One more than the policy's, for a last forward over final ids."""
        return self.policy.most_forwards(block_size) + 1

    def init_step_state(self, forward_batch: Any) -> list[Any]:
        prompt = self._prompt_mask(forward_batch)
        return opened(self.policy, forward_batch.input_ids, prompt, self.mask_id, self.strict)

    def step(self, forward_batch: Any, full_logits: Any, states: list[Any]) -> Any:
        done = step_(states, forward_batch.input_ids, full_logits)
        return torch.tensor(done) if RETURNS_TENSOR else done


def chosen_policy(settings: Mapping[str, Any]) -> Policy:
    """The policy that a configuration names. Raises ValueError."""
    given = {SPELLINGS.get(k, k): v for k, v in settings.items() if k not in OTHERS}
    if len(given) < len(settings.keys() - OTHERS):
        raise ValueError(f"FastEdit: one parameter is given under two names in {dict(settings)}")
    if given.pop("penalty_lambda", 0):
        raise ValueError("FastEdit has no penalty_lambda: leave it out, or use JointThreshold")
    text = given.pop("policy", "joint_threshold")
    policy = policies.parse(text)
    known = policy.parameters()
    if twice := given.keys() & set(given_in(text)):
        raise ValueError(f"FastEdit: {', '.join(twice)} is in policy {text!r} and beside it")
    if text in ("joint_threshold", "joint_threshold_indel"):
        given = DEFAULTS | given
    if unknown := sorted(given.keys() - known):
        raise ValueError(
            f"FastEdit: {policy.name} has no {', '.join(unknown)}; its parameters are "
            f"{', '.join(known)}"
        )
    # YAML has `null` for it, and leaves `none` a text.
    given = {name: None if value == "none" else value for name, value in given.items()}
    policy = dataclasses.replace(policy, **given)  # type: ignore[type-var]
    needs = policy.needs & {"sample", "score", "next_token"}
    shows = type(policy).shown is not Policy.shown
    if policy.plan != "block" or needs or policy.noise or policy.wide or policy.variable or shows:
        raise ValueError(
            f"FastEdit cannot run policy {policy} inside SGLang, which gives it the logits of a "
            "block and nothing else: use fastedit.Decoder"
        )
    return policy


def opened(
    policy: Policy, input_ids: Tensor, prompt: Tensor, mask_token_id: int, strict: bool
) -> list[Any]:
    """Places of fresh blocks: input_ids int64 [B * L], prompt bool [B, L]."""
    state = policies.open(
        policy,
        input_ids.view(prompt.shape),
        ~prompt,
        mask_token_id=mask_token_id,
        strict_reference=strict,
    )
    return [Place(state, row) for row in range(len(prompt))]


def step_(places: Sequence[Place], input_ids: Tensor, full_logits: Any) -> list[bool]:
    """A decision for all blocks, input_ids [B * L] in place; which of them are done.

    full_logits  [B * L, V], or what has them as `full_logits`

    A block is done when the forward of these logits has seen its final ids, so that its keys and
    values are final too. The one synchronisation is the reading of the flags.
    """
    if not isinstance(full_logits, Tensor):
        full_logits = full_logits.full_logits
    state = together(places)
    blocks, length = state.ids.shape
    held, ids = state.done.clone(), input_ids.view(blocks, length)
    state.ids.copy_(ids)
    policies.step_(state, full_logits.view(blocks, length, -1))
    ids.copy_(state.ids)
    bad = state.bad & ~held
    state.done.logical_or_(bad)  # others of the batch may go on: these stay as they are
    done, bad = torch.stack((state.done & (held | ~state.dirty) | bad, bad)).tolist()
    if any(bad):
        logger.error("FastEdit: logits of %d blocks are NaN or infinite; these end", sum(bad))
    return done


def replaced_step(
    original: Callable, algorithm: Any, forward_batch: Any, full_logits: Any, states: list[Any]
) -> Any:
    """`JointThreshold.step` with our decision on its own states; a penalty is left to it.

    As it does, it may fill a mask with the mask.
    """
    if algorithm.penalty_lambda > 0:
        return original(algorithm, forward_batch, full_logits, states)
    if any("fastedit" not in state for state in states):
        _join(algorithm, forward_batch, states)
    shared = "prompt_masks" in states[0]
    places = states[0]["fastedit"] if shared else [state["fastedit"] for state in states]
    return step_(places, forward_batch.input_ids, full_logits)


def _join(algorithm: Any, forward_batch: Any, states: list[Any]) -> None:
    """Give the states that have none their places: one state of all blocks, or one of each."""
    shared = states[0].get("prompt_masks")
    prompt = shared if shared is not None else torch.stack([s["prompt_mask"] for s in states])
    policy = policies.JointThreshold(
        algorithm.threshold, algorithm.edit_threshold, algorithm.max_post_edit_steps
    )
    places = opened(policy, forward_batch.input_ids, prompt, algorithm.mask_id, strict=True)
    if shared is not None:
        states[0]["fastedit"] = places
        return
    for state, place in zip(states, places, strict=True):
        state.setdefault("fastedit", place)
