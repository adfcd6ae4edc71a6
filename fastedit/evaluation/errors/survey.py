"""The whole comparison: the same questions to two models, one after the other, and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from fastedit.evaluation.errors.decoded import QUALITY, Decoded, decoded
from fastedit.evaluation.errors.drafted import BATCH, RATES, drafted
from fastedit.evaluation.errors.held_out import HeldOut, read_held_out
from fastedit.evaluation.errors.report import REPORT_VERSION, compare
from fastedit.evaluation.errors.rules import RULES_VERSION, Rules
from fastedit.evaluation.errors.written import Written
from fastedit.policies import JointThresholdInDel, parse
from fastedit.training.options import EditOptions
from fastedit.training.runs.control_tokens import control_tokens
from fastedit.training.typed import set_types


class Answers(NamedTuple):
    """What one model wrote; `again` and `decoding` are None where they were not asked for."""

    held: HeldOut
    drafts: Written
    again: Written | None  # drafts with other draft keys
    decoding: Decoded | None


@dataclass(frozen=True)
class Survey:
    """What models are asked.

    source       "task:NAME,option=value", of which held-out problems are taken, or a file of
                 JSON Lines as in training
    samples      how many, the first ones
    seed         of masks, draws and intervals
    draft_mode   "argmax", or "sample" at `draft_temperature`
    decode       let them decode the prompts too, by `policy`
    batch_size   samples in a draft pass; changes nothing but memory and rounding

    The others are those of `settings.RunOptions`. Raises ValueError, naming the option, for a draft
    mode or temperature that is none, and a policy that is not of blocks one by one.
    """

    source: str
    samples: int = 200
    seed: int = 0
    draft_mode: str = "argmax"
    draft_temperature: float = 1.0
    decode: bool = True
    policy: str = QUALITY
    batch_size: int = BATCH
    max_length: int | None = None
    on_bad_line: str = "stop"
    raw: bool = False
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    ignore_fields: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        set_types(self)
        EditOptions(draft_mode=self.draft_mode, draft_temperature=self.draft_temperature)
        rule = parse(self.policy)
        if rule.wide or rule.variable or rule.plan == "window":
            raise ValueError(
                f"policy={self.policy} goes back to earlier blocks, and tokens are followed in one "
                "block after another: take joint_threshold, joint_threshold_indel or another such"
            )

    @property
    def draws(self) -> bool:
        return self.draft_mode == "sample"

    def ask(
        self,
        model: Any,
        tokenizer: Any,
        *,
        twice: bool = False,
        on_samples: Callable[[int], None] = lambda samples: None,
    ) -> Answers:
        """Ask one model; `twice` repeats draws with other keys, for the null level.

        `on_samples(k)` is called after each k samples of a pass. Raises what `read_held_out`,
        `drafted` and `decoded` raise.
        """
        held = read_held_out(self, model, tokenizer)
        rules = Rules(tokenizer)

        def draft(key: int) -> Written:
            return drafted(
                model,
                held,
                rules,
                seed=self.seed,
                draft_mode=self.draft_mode,
                temperature=self.draft_temperature,
                key=key,
                batch_size=self.batch_size,
                on_batch=on_samples,
            )

        drafts, again = draft(0), draft(1) if twice and self.draws else None
        decoding = None
        if self.decode:
            self._give_control_tokens(model, tokenizer, held)
            decoding = decoded(model, held, rules, policy=self.policy, on_done=on_samples)
        return Answers(held, drafts, again, decoding)

    def _give_control_tokens(self, model: Any, tokenizer: Any, held: HeldOut) -> None:
        """Where the policy leaves its ids to a model that has none, rows for them, as training
        begins with: of the mean of all tokens, which never is the best."""
        rule = parse(self.policy)
        if isinstance(rule, JointThresholdInDel) and rule.delete_token_id is None:
            control_tokens(EditOptions(labels="lcs"), model, tokenizer, held.mask_token_id)

    def passes(self, twice: bool = False) -> int:
        """How often `ask` goes over all samples."""
        return 1 + (twice and self.draws) + self.decode

    def report(self, before: Answers, after: Answers) -> dict[str, Any]:
        """The comparison, ready for JSON but for NaN; see `report.compare`.

        `before` was asked twice if drafts are draws. Raises ValueError where the models were not
        asked the same.
        """
        if before.held.fingerprint != after.held.fingerprint:
            raise ValueError("before and after differ in tokenizer, mask token or block size")
        form: dict[str, Any] = {
            "samples": len(before.held.documents),
            "block_size": before.held.block_size,
            "seed": self.seed,
        }
        one, other, again = before.drafts, after.drafts, before.again
        drafts = {"all": compare(one, other, again=again, **form)}
        for group, rate in enumerate(RATES):
            drafts[f"t={rate}"] = compare(
                one.where(one.group == group),
                other.where(other.group == group),
                again=None if again is None else again.where(again.group == group),
                **form,
            )
        decoding = None
        if before.decoding is not None and after.decoding is not None:
            decoding = compare(before.decoding.written, after.decoding.written, **form)
            quality = self.policy == QUALITY
            decoding["rule"] = "in quality mode" if quality else f"by {self.policy}"
            decoding["before"] |= before.decoding.edits
            decoding["after"] |= after.decoding.edits
        return {
            "version": REPORT_VERSION,
            "rules_version": RULES_VERSION,
            **asdict(self),
            **form,
            "truncated": before.held.truncated,
            "drafts": drafts,
            "decoding": decoding,
        }
