"""The study of edits: what is trained, which rules decode, and at which pace."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fastedit.policies import register
from fastedit.policies.base import Stats, View, Write
from fastedit.policies.joint_threshold_indel import JointThresholdInDel
from fastedit.policies.me_dlm import MEDLM

BASES = ("block_causal", "full_attention")
TASKS = ("word_sequence_reversal", "text_repair")
LENGTH = 64  # tokens of question and canvas together, as the bases were trained
SHARES = (1, 2, 4, 8)  # a budget is one of this many parts of the forwards of one token each
# Which held-out problems: (first, how many). Paces are chosen on others than those reported.
CHOICE, REPORTED = (400, 50), (0, 100)
DATA = tuple(f"task:{task},examples=6000,seed=7" for task in TASKS)
# By the optimiser that made the bases, Muon: AdamW at 5e-4 leaves an editor that changes every
# third token of a clean text after as many steps.
RUN = {
    "batch_size": 32,
    "max_length": LENGTH,
    "lora_rank": 0,
    "learning_rate": 0.01,
    "min_learning_rate": 0.0,
    "save_every": 50,
    "eval_examples": 0,
}

# Of every training.
STEPS = {"block_causal": 1000, "full_attention": 2000}


class Stage(NamedTuple):
    """A run of `fastedit train` that goes on from the stage before; `share` of the steps."""

    share: float
    edit: dict[str, Any]
    refinement: dict[str, Any] | None = None


# Masks up to all of a canvas, as decoding begins with. Masks alone go on for as many steps as the
# others: what they gain is what training on gives.
_BLOCKS, _TEXTS = {"noise": "uniform_block(0.3,1)"}, {"noise": "uniform(0.3,1)"}
# ME-DLM's loss is a mean over the labels of a row: with 1/t on top, texts of which all is masked,
# as decoding in few forwards begins, would count least.
_LEVENSHTEIN = _TEXTS | {"labels": "levenshtein", "mask_weight": "1"}
_FIRST = {"mask_first": True}  # a canvas has no first token that is known
TRAININGS: dict[str, dict[str, tuple[Stage, ...]]] = {
    "block_causal": {
        "masks": (Stage(1.0, _BLOCKS | {"t2t": "none"}),),
        "replace": (Stage(1.0, _BLOCKS | {"t2t": "self"}),),
        "edit": (Stage(1.0, _BLOCKS | {"t2t": "self", "labels": "lcs"}),),
    },
    "full_attention": {
        "masks": (Stage(1.0, _TEXTS | {"t2t": "none"}),),
        "replace": (Stage(1.0, _TEXTS | {"t2t": "self"}),),
        "edit": (
            Stage(0.4, _LEVENSHTEIN | {"t2t": "none"}, _FIRST),
            # Drafts of 2 to 8 forwards, which is what an eighth has room for, and not edited before
            # they are learnt from: as raw as those that the first edit of a text meets.
            Stage(
                0.6,
                _LEVENSHTEIN | {"t2t": "self"},
                _FIRST | {"fills": (8, 16, 32), "edit_steps": 0},
            ),
        ),
    },
}


# Operations are forbidden at decoding, and not by labels: so one editor is compared with itself,
# seed by seed, and what each operation adds is not mixed with what another training learnt. What
# an editor that was trained to replace alone is worth, the arm "+ T2T" shows.
@dataclass(frozen=True)
class MEDLMDelete(MEDLM):
    """ME-DLM that replaces and deletes: its head for the next token, which it has, says nothing."""

    def rule(self, stats: Stats, view: View) -> Write:
        if stats.following is not None:  # some of its blocks edit
            silent = torch.full_like(stats.following.token, -1)
            following = dataclasses.replace(stats.following, token=silent)
            stats = dataclasses.replace(stats, following=following)
        return super().rule(stats, view)


@dataclass(frozen=True)
class MEDLMReplace(MEDLMDelete):
    """ME-DLM that replaces: a token that would go stays as it is."""

    def rule(self, stats: Stats, view: View) -> Write:
        stays = stats.token == (-1 if self.delete_token_id is None else self.delete_token_id)
        token = torch.where(stays, view.ids, stats.token)
        return super().rule(dataclasses.replace(stats, token=token), view)


@dataclass(frozen=True)
class InDelDelete(JointThresholdInDel):
    """LLaDA2.2's rule without INSERT: a token that asks for it stays as it is, and a mask takes its
    best other id."""

    def forbidden(self) -> tuple[int, ...]:
        return self.control_ids[1:]

    def rule(self, stats: Stats, view: View) -> Write:
        outside = stats.outside
        assert stats.top_tokens is not None and stats.top_probs is not None and outside is not None
        banned = torch.tensor(self.forbidden(), device=view.ids.device)
        last = torch.isin(stats.top_tokens, banned).int().argsort(dim=-1, stable=True)
        tokens, probs = stats.top_tokens.gather(-1, last), stats.top_probs.gather(-1, last)
        stays = torch.isin(stats.token, banned) & view.contents().tokens

        def allowed(excluded: torch.Tensor, only: torch.Tensor) -> torch.Tensor:
            more = banned.expand(*excluded.shape[:2], -1)
            return outside(torch.cat((excluded, more), -1), only)

        changed = dataclasses.replace(
            stats,
            token=torch.where(stays, view.ids, tokens[..., 0]),
            prob=probs[..., 0],
            top_tokens=tokens,
            top_probs=probs,
            outside=allowed,
        )
        return super().rule(changed, view)

    def twin(self, view: View) -> None:
        """None that forbids."""


@dataclass(frozen=True)
class InDelReplace(InDelDelete):
    """LLaDA2.2's rule without DELETE and INSERT."""

    def forbidden(self) -> tuple[int, ...]:
        return self.control_ids


RULES = {
    "me_dlm_delete": MEDLMDelete,
    "me_dlm_replace": MEDLMReplace,
    "indel_delete": InDelDelete,
    "indel_replace": InDelReplace,
}


def register_rules() -> None:
    for name, rule in RULES.items():
        register(name)(rule)


class Arm(NamedTuple):
    """Which training decodes, by which rule; `settings` yields the rule's texts for a budget.

    settings  of (share of the budget, masks of the canvas). Where the masks say nothing, a text is
              one setting for all problems
    """

    training: str
    settings: Callable[[int, int], Iterator[str]]


_FILLS = (1, 2, 4, 8, 16, 32)
_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
_EDITING = [
    f"editing_threshold={threshold},max_post_steps={post}"
    for threshold, post in ((0.0, 1), (0.5, 1), (0.9, 1), (0.5, 16))
]
_NO_EDITING = "editing_threshold=none,max_post_steps=0"


def _counts(share: int, masks: int) -> Iterator[str]:
    """As many fills per forward as make the budget."""
    yield f"joint_threshold:threshold=1,num_to_transfer={share},{_NO_EDITING}"


def _blocks(editing: bool) -> Callable[[int, int], Iterator[str]]:
    """LLaDA2.1's rule, by a count of fills per forward and by thresholds."""
    paces = [f"threshold=1,num_to_transfer={fills}" for fills in _FILLS]
    paces += [f"threshold={threshold}" for threshold in _THRESHOLDS]

    def settings(share: int, masks: int) -> Iterator[str]:
        for pace, edit in itertools.product(paces, _EDITING if editing else [_NO_EDITING]):
            yield f"joint_threshold:{pace},{edit}"

    return settings


def _indel(policy: str) -> Callable[[int, int], Iterator[str]]:
    """LLaDA2.2's rule has no count of fills: its thresholds alone set the pace."""

    def settings(share: int, masks: int) -> Iterator[str]:
        for threshold, edit in itertools.product(_THRESHOLDS, _EDITING):
            yield f"{policy}:threshold={threshold},{edit}"

    return settings


def _texts(policy: str, editing: bool) -> Callable[[int, int], Iterator[str]]:
    """All forwards of the budget, so many of which may edit."""

    def settings(share: int, masks: int) -> Iterator[str]:
        forwards = math.ceil(masks / share)
        for edits in (1, 2, 4, 8) if editing else (0,):
            fills = max(forwards - edits, 1)
            yield f"{policy}:mask_steps={fills},edit_steps={max(forwards - fills, 0)}"

    return settings


ARMS: dict[str, dict[str, Arm]] = {
    "block_causal": {
        "masks alone": Arm("masks", _blocks(editing=False)),
        "masks alone, by count": Arm("masks", _counts),
        "+ T2T": Arm("replace", _blocks(editing=True)),
        "+ InDel": Arm("edit", _indel("joint_threshold_indel")),
        "InDel, replace": Arm("edit", _indel("indel_replace")),
        "InDel, replace + delete": Arm("edit", _indel("indel_delete")),
    },
    "full_attention": {
        "masks alone": Arm("masks", _texts("me_dlm_replace", editing=False)),
        "+ T2T": Arm("replace", _texts("me_dlm_replace", editing=True)),
        "+ ME-DLM": Arm("edit", _texts("me_dlm", editing=True)),
        "ME-DLM, replace": Arm("edit", _texts("me_dlm_replace", editing=True)),
        "ME-DLM, replace + delete": Arm("edit", _texts("me_dlm_delete", editing=True)),
    },
}


def choices(base: str, arm: str, share: int) -> int:
    """How many settings an arm has to choose from."""
    return len(list(ARMS[base][arm].settings(share, LENGTH)))


def policy(base: str, arm: str, share: int, setting: int, masks: int) -> str:
    """Setting number `setting` for a canvas of so many masks."""
    return next(itertools.islice(ARMS[base][arm].settings(share, masks), setting, None))
