"""Why a decision rule did what an event says, in words, from its parameters and what it read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastedit.traces.trace import COMMIT, DELETE, EDIT, FILL, INSERT, REMASK, TraceEvent


def digits(value: float) -> str:
    """A probability as it reads well: three digits, and more where it is nearly 1."""
    return f"{value:.6g}" if value > 0.999 else f"{value:.3g}"


class Reason(NamedTuple):
    """What an event of one kind means under one policy; words may name parameters in braces.

    field, bound  what the rule compared, and the parameter it compared it with. Where the value is
                  beyond the bound, that is the reason, and else, or without a bound, `words`
    below         whether it had to be below the bound
    """

    words: str
    field: str = ""
    bound: str = ""
    below: bool = False

    def told(self, event: TraceEvent, parameters: Mapping[str, Any]) -> str:
        value, bound = getattr(event, self.field, None), parameters.get(self.bound)
        words = self.words.format_map(_Known(parameters))
        if value is None or isinstance(bound, bool) or not isinstance(bound, (int, float)):
            return words
        if not (value < bound if self.below else value > bound):
            return words
        side = "below" if self.below else "above"
        return f"{_FIELDS[self.field]} ({digits(value)}) was {side} {self.bound}={bound:g}"


class _Known(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return "?"


_FIELDS = {
    "confidence": "its confidence",
    "p_old": "the probability of the token that it held",
    "score": "its error score",
}
_SUREST = "it was among the surest masks, of which a forward fills at least {num_to_transfer}"
_BY_THRESHOLD = Reason(_SUREST, "confidence", "threshold")
_RIVAL = Reason("a surer token was there", "confidence", "editing_threshold")
_JOINT = {FILL: _BY_THRESHOLD, EDIT: _RIVAL}
_TRIGGERS = {
    "low_prob": Reason("it had become improbable", "p_old", "tau", below=True),
    "t2t": Reason("another token was sure enough", "confidence", "tau"),
    "logit_diff": Reason("its probability had fallen by more than tau={tau}"),
}
REASONS: dict[str, dict[str, Reason]] = {
    "joint_threshold": _JOINT,
    "multi_block": _JOINT,
    "joint_threshold_indel": _JOINT
    | {
        INSERT: Reason("the model wrote INSERT (id {insert_token_id}) there"),
        DELETE: Reason("the model wrote DELETE (id {delete_token_id}) there"),
    },
    "low_confidence": {
        FILL: Reason(
            "it was among the best masks by {rank}, as many as the schedule {schedule!r} fills",
            "confidence",
            "threshold",
        )
    },
    "confidence": {FILL: Reason("rule={rule} fills as many of the surest masks, at least one")},
    "remask": {FILL: _BY_THRESHOLD},
    "remdm": {
        FILL: Reason("the schedule fills this share of the masks, with draws"),
        REMASK: Reason("a draw took it back, with the chance that variant={variant} gives it"),
    },
    "proseco": {
        FILL: Reason(
            "it was the surest mask, or as the schedule has it", "confidence", "threshold"
        ),
        EDIT: Reason("a corrector pass over the completed text replaced it"),
    },
    "wino": {
        FILL: Reason("it was the surest mask", "confidence", "threshold"),
        REMASK: Reason(
            "a row that did not see it doubted it", "p_old", "verify_threshold", below=True
        ),
    },
    "saber": {
        FILL: Reason("it was surer than fills had been on average, or among the {least} surest"),
        REMASK: Reason("its confidence had risen the least since the forward before"),
    },
    "self_correction": {
        FILL: Reason("it was among the {k} most probable draws"),
        EDIT: Reason("it was among the {k} most probable draws that differ from what is held"),
    },
    "correction": {
        FILL: Reason("{fill} fills masks"),
        EDIT: Reason("{fill} replaces tokens"),
        REMASK: Reason("its error, 1 - p, was above tau={tau}", "score", "tau"),
    },
    "entropy_bound": {
        EDIT: Reason(
            "its draw was accepted, as the entropies up to bound={bound} allow, or else it became "
            "noise again"
        )
    },
    "me_dlm": {
        FILL: Reason("it was among the surest masks, an even share in each of {mask_steps} steps"),
        EDIT: Reason("the first head wanted another token there"),
        INSERT: Reason("the head for the next token wanted this one before it"),
        DELETE: Reason("the first head wanted it to go (id {delete_token_id})"),
    },
}
_KINDS = {
    FILL: "the policy filled this mask",
    EDIT: "the policy replaced the token",
    REMASK: "the policy took the token back",
    INSERT: "the policy put it in",
    DELETE: "the policy took it out",
    COMMIT: "its block was done, and nothing of it changes any more",
}


def why(event: TraceEvent, parameters: Mapping[str, Any]) -> str:
    """One clause, such as "its confidence 0.83 was above threshold=0.7"."""
    known = REASONS.get(event.policy, {})
    if event.policy == "remask" and event.kind == REMASK:
        known = {REMASK: _TRIGGERS.get(str(parameters.get("trigger")), Reason(_KINDS[REMASK]))}
    return known.get(event.kind, Reason(_KINDS[event.kind])).told(event, parameters)
