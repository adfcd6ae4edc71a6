"""What an editing step trains on: every knob of the objective, with its default."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, fields
from typing import Any

from fastedit.ops.draft_and_corrupt import DRAFT_MODES, LOSS_REGIONS, RANDOM_SCOPES
from fastedit.training.noise.schedule import Schedule
from fastedit.training.typed import set_types

_CHOICES: dict[str, tuple[str, ...]] = {
    "t2t": ("none", "random", "self"),
    "labels": ("plain", "lcs", "levenshtein"),
    "mask_weight": ("1", "1/t"),
    "denominator": ("supervised", "maskable", "sequence"),
    "draft_mode": DRAFT_MODES,
    "keep_select": ("random", "lowest_conf"),
    "random_scope": RANDOM_SCOPES,
    "loss_region": LOSS_REGIONS,
    "draft_adapter": ("on", "off"),
    "share_clean": ("auto", "on", "off"),
    "grad_rounds": ("last", "all"),
    "cap_region": ("m2t", "all"),
}
_SHARES = ("r_edit", "mix_share", "draft_share", "keep_mask", "p_random", "confirm_share")
_AT_LEAST: dict[str, float] = {
    "w_max": 1,
    "lambda_edit": 0,
    "lambda_keep": 0,
    "n_drafts": 1,
    "turns": 1,
    "turn_steps": 1,
    "wildcard_rounds": 0,
    "turn_threshold": 0,
    "turn_editing_threshold": 0,
    "cap_beta": 0,
}
NOISE, W_MAX = "uniform_seq(0.3,0.8)", 20.0
# What models of an attention were trained with. Block-causal: as LLaDA2.x is. Full attention: the
# SFT of LLaDA (arXiv 2502.09992, GUIDELINES.md of ML-GSAI/LLaDA). Its weights 1/t are not clipped:
# t is at least .001.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "block_causal": {
        "noise": NOISE,
        "mask_weight": "1",
        "w_max": W_MAX,
        "denominator": "supervised",
    },
    "full": {
        "noise": "uniform(0.001,1)",
        "mask_weight": "1/t",
        "w_max": 1000.0,
        "denominator": "sequence",
    },
}
# Sources of wrong tokens that labels of edits go with, and the attention of the models that take
# such labels: LLaDA2.2's blocks keep their length, ME-DLM's texts do not.
_EDITS: dict[str, tuple[tuple[str, ...], str]] = {
    "lcs": (("self",), "block_causal"),
    "levenshtein": (("none", "self"), "full"),
}
# Options that the step of labels="levenshtein" reads; `RefinementOptions` has its others.
_OF_TEXTS = frozenset(
    "t2t labels noise mask_weight w_max draft_share turn_editing_threshold delete_token_id".split()
)
_READERS = {"block_causal": "block-causal models", "full": "models with full attention"}
# Rounds of an example where they are not given.
_ROUNDS: dict[str, dict[str, Any]] = {
    "plain": {"turns": 1, "grad_rounds": "last"},
    "lcs": {"turns": 3, "grad_rounds": "all"},
}


@dataclass(frozen=True)
class EditOptions:
    """Corruption, drafts and loss of a training step. Shares are probabilities, from 0 to 1.

    t2t            where visible wrong tokens come from: "self", the model's own drafts
                   (arXiv 2606.17175); "random", the vocabulary; "none", there are none
    labels         "plain", the clean ids; "lcs", from the second round on edits of the draft that
                   the model has decoded so far, deletes and inserts among them (LLaDA2.2; fixed
                   blocks); "levenshtein", the edits of ME-DLM (full attention)
    noise          mask rates: see `schedule.Schedule`
    mask_weight    w(t) of masked positions: "1" or "1/t", the latter at most `w_max`
    lambda_edit    weight of visible wrong positions
    lambda_keep    weight of visible right positions; 0 is allowed, with a warning
    denominator    what the summed loss is divided by: "supervised", labels; "maskable", response
                   positions; "sequence", documents, each averaged over its response positions

    r_edit         "random": share of the visible response positions that become wrong
    mix_share      "random": share of the samples with wrong tokens

    draft_share    "self": share of the samples that are drafted
    draft_mode     "argmax", or "sample" at `draft_temperature`
    draft_forbid   ids beside the mask that are never drafted, such as control tokens
    keep_mask      share of the drafted masks that stay masks, at random or, with
                   keep_select="lowest_conf", the drafts of lowest probability
    p_random       share of the positions in `random_scope` that become a random wrong id
    loss_region    labels of a drafted sample: see `ops.DraftOptions`
    draft_adapter  "on": drafts come from the model being trained; "off": from its base model

    n_drafts       independent corruptions of every sample in a step
    complementary  each of them once more with the other response positions masked
    confirm_share  share of the samples that stay clean: right tokens are to be kept
    share_clean    compute the clean half once for all passes: "auto", where that is valid; "on",
                   raise where it is not; "off"
    turns          rounds of an example (MTF): before each but the first the ids advance by
                   `turn_steps` decoding steps at `turn_threshold` and `turn_editing_threshold`.
                   None: 1, or 3 with labels="lcs"
    grad_rounds    rounds with a loss: the "last", or "all", whose mean is the loss. None: "last",
                   or "all" with labels="lcs"
    wildcard_rounds  "lcs": rounds from the second on in which a mask may become any token of the
                   target; None: all of them
    delete_token_id, insert_token_id  "lcs", "levenshtein": ids, or texts of tokens, that say so;
                   None: see `fastedit.training.runs.control_tokens`
    cap_beta       weight of the mean entropy of rows whose argmax is the label (CAP; 2.0 in
                   dParallel); 0 is off
    cap_region     those rows: masked ones ("m2t"), or "all"

    A sample without wrong tokens is plain M2T, where only masks carry labels; with turns > 1 it
    gets wrong tokens, and all of its response carries labels.
    None is not given: a step has it from `for_attention`, as models of its kind were trained.
    Raises ValueError, naming the option, for a value that is none of these.
    """

    t2t: str = "self"
    labels: str = "plain"
    noise: str | None = None
    mask_weight: str | None = None
    w_max: float | None = None
    lambda_edit: float = 1.0
    lambda_keep: float = 1.0
    denominator: str | None = None

    r_edit: float = 0.10
    mix_share: float = 1.0

    draft_share: float = 0.5
    draft_mode: str = "argmax"
    draft_temperature: float = 1.0
    draft_forbid: tuple[int, ...] = ()
    keep_mask: float = 0.0
    keep_select: str = "random"
    p_random: float = 0.05
    random_scope: str = "drafted"
    loss_region: str = "response"
    draft_adapter: str = "on"

    n_drafts: int = 1
    complementary: bool = False
    confirm_share: float = 0.0
    share_clean: str = "auto"
    turns: int | None = None
    turn_steps: int = 1
    turn_threshold: float = 0.7
    turn_editing_threshold: float = 0.5
    grad_rounds: str | None = None
    wildcard_rounds: int | None = None
    delete_token_id: str | None = None
    insert_token_id: str | None = None
    cap_beta: float = 0.0
    cap_region: str = "m2t"

    def __post_init__(self) -> None:
        set_types(self)
        for name, value in _ROUNDS.get(self.labels, _ROUNDS["plain"]).items():
            if self._value(name) is None:
                object.__setattr__(self, name, value)
        for name, choices in _CHOICES.items():
            if self._said(name) and self._value(name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {self._value(name)!r}"
                )
        for name in _SHARES:
            if not 0.0 <= self._value(name) <= 1.0:
                raise ValueError(f"{name} is a share from 0 to 1, got {self._value(name)}")
        for name, least in _AT_LEAST.items():
            if self._said(name) and not least <= self._value(name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and at least {least}, got {self._value(name)}"
                )
        if not 1e-30 <= self.draft_temperature <= 1e30:
            raise ValueError(
                f"draft_temperature must be from 1e-30 to 1e30, got {self.draft_temperature}"
            )
        if self.noise is not None:
            Schedule.parse(self.noise)
        self._check_labels()
        if self.lambda_keep == 0:
            warnings.warn(
                "lambda_keep=0: nothing keeps right tokens in place, and a decoder that edits at "
                "a low threshold will churn",
                stacklevel=3,
            )

    def _value(self, name: str) -> Any:
        return getattr(self, name)

    def _said(self, name: str) -> bool:
        """Whether it is not left to `for_attention`."""
        optional = name in OBJECTIVES["full"] or name == "wildcard_rounds"
        return not optional or self._value(name) is not None

    def _check_labels(self) -> None:
        """Raises ValueError for labels without their source of wrong tokens, and for options that
        say nothing of them."""
        sources, _ = _EDITS.get(self.labels, (_CHOICES["t2t"], ""))
        if self.t2t not in sources:
            raise ValueError(
                f"labels={self.labels} are edits of the model's own drafts: take "
                f"t2t={' or '.join(reversed(sources))}, not t2t={self.t2t}"
            )
        if self.labels == "lcs":
            if self.turns == 1:
                raise ValueError(
                    "turns=1 has no labels of edits, which begin with the second round: raise "
                    "turns, or take labels=plain"
                )
            if self.loss_region != "response":
                raise ValueError(
                    f"loss_region={self.loss_region} leaves out positions that labels=lcs has "
                    "edits for: take loss_region=response"
                )
        unread = {"wildcard_rounds": ("lcs",), "insert_token_id": ("lcs",)}
        for name, readers in (unread | {"delete_token_id": tuple(_EDITS)}).items():
            if self._value(name) is not None and self.labels not in readers:
                raise ValueError(
                    f"{name} says nothing with labels={self.labels}: leave it out, or take "
                    f"labels={' or '.join(readers)}"
                )
        if self.labels == "levenshtein":
            for field in fields(self):
                default = _ROUNDS["plain"].get(field.name, field.default)
                if field.name not in _OF_TEXTS and self._value(field.name) != default:
                    raise ValueError(
                        f"{field.name} says nothing with labels=levenshtein: leave it out; the "
                        f"options that do are refinement.NAME and {', '.join(sorted(_OF_TEXTS))}"
                    )

    def for_attention(self, attention: str) -> EditOptions:
        """These, with what is None as models of this attention were trained: `OBJECTIVES`.

        Raises ValueError for labels that models of this attention are not trained on.
        """
        _, fitting = _EDITS.get(self.labels, ((), attention))
        if attention != fitting:
            other = next(name for name, (_, needed) in _EDITS.items() if needed == attention)
            raise ValueError(
                f"labels={self.labels} are for {_READERS[fitting]}, and this checkpoint is one of "
                f"the {_READERS[attention]}: take labels={other} or plain, or another checkpoint"
            )
        settled = copy.copy(self)  # without the warnings of a new one
        for name, value in OBJECTIVES[attention].items():
            if self._value(name) is None:
                object.__setattr__(settled, name, value)
        return settled

    @property
    def copies(self) -> int:
        """Noisy copies of every sample in a step."""
        return self.n_drafts * (2 if self.complementary else 1)

    @property
    def rounds(self) -> int:
        """Supervised passes per copy."""
        return self.turns or 1 if self.grad_rounds == "all" else 1
