"""Draft and corrupt: from the logits of a draft pass to the noisy ids of the supervised pass.

Training on the model's own mistakes (self-generated T2T) fills masks with drafts of the model,
returns some of them to masks, replaces some by random ids, and asks for the clean ids back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.logits import check_forbid, check_logits, check_per_row

KEEP, MASK, EDIT, RANDOM = 0, 1, 2, 4  # RANDOM is a bit beside EDIT
UNLABELLED = -100

DRAFT_MODES = ("argmax", "sample")
RANDOM_SCOPES = ("drafted", "visible", "both")
LOSS_REGIONS = ("formerly_masked", "formerly_masked+random", "response")


@dataclass(frozen=True)
class DraftOptions:
    """What becomes of the rows that take part. Shares are probabilities, from 0 to 1, per row.

    mask_token_id  the mask; never a draft and never a random id
    forbid         other ids that are neither, such as control tokens
    draft_mode     "argmax": the best id that is not forbidden, lowest on ties; "sample": a draw
    temperature    of "sample", 1e-30 to 1e30; without effect in "argmax"
    keep_mask      share of the masks that stay masks
    p_random       share of the rows in `random_scope` that become a random wrong id
    random_scope   "drafted": masks that did not stay masks; "visible": ids that were no masks;
                   "both"
    loss_region    rows with a label. "response": all that take part; "formerly_masked": the masks
                   of xt, whatever became of them; "formerly_masked+random": random ids as well

    Raises ValueError for a share, a temperature or a name that is none of these.
    """

    mask_token_id: int
    forbid: tuple[int, ...] = ()
    draft_mode: str = "argmax"
    temperature: float = 1.0
    keep_mask: float = 0.0
    p_random: float = 0.05
    random_scope: str = "drafted"
    loss_region: str = "response"

    def __post_init__(self) -> None:
        for name, choices in (
            ("draft_mode", DRAFT_MODES),
            ("random_scope", RANDOM_SCOPES),
            ("loss_region", LOSS_REGIONS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        for name in ("keep_mask", "p_random"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        if not 1e-30 <= self.temperature <= 1e30:
            raise ValueError(f"temperature must be from 1e-30 to 1e30, got {self.temperature}")

    def settings(self, vocab: int) -> dict[str, Any]:
        """The options as back ends take them, for logits of `vocab` ids.

        forbid          ascending, the mask among them where it is in the vocabulary
        temperature     0.0 for "argmax"
        mask_below      a mask stays one where its 32-bit word is below this
        drafted_below   the same for becoming random, of masks that did not stay
        visible_below   and of ids that were no masks
        region          place in LOSS_REGIONS

        Raises ValueError for ids outside the vocabulary, and where no random id is left.
        """
        check_forbid(self.forbid, vocab)
        forbid = {int(token) for token in self.forbid}
        if 0 <= self.mask_token_id < vocab:
            forbid.add(int(self.mask_token_id))
        if self.p_random > 0.0 and vocab - len(forbid) < 2:
            raise ValueError(
                f"p_random {self.p_random} needs two ids to choose from, but of {vocab} only "
                f"{vocab - len(forbid)} may be chosen: forbid fewer, or set it to 0"
            )
        random = round(self.p_random * 2**32)
        return {
            "mask_token_id": int(self.mask_token_id),
            "forbid": tuple(sorted(forbid)),
            "temperature": float(self.temperature) if self.draft_mode == "sample" else 0.0,
            "mask_below": round(self.keep_mask * 2**32),
            "drafted_below": random if self.random_scope != "visible" else 0,
            "visible_below": random if self.random_scope != "drafted" else 0,
            "region": LOSS_REGIONS.index(self.loss_region),
        }


@dataclass(frozen=True)
class DraftKey:
    """What the random words of a row follow from, and nothing else: not its place in the batch.

    seed      of the run, -2^63 to 2^63 - 1
    epoch     0 to 2^16 - 1
    example   [R] int64, global index of the row's example in the data set; 48 bits are used
    position  [R] int64, of the row in its example; 32 bits are used
    turn      0 to 2^24 - 1; tells apart several drafts of one example in one step

    Raises ValueError for a seed, an epoch or a turn out of range.
    """

    seed: int
    epoch: int
    example: Tensor
    position: Tensor
    turn: int = 0

    def __post_init__(self) -> None:
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must be from -2**63 to 2**63 - 1, got {self.seed}")
        if not 0 <= self.epoch < 2**16:
            raise ValueError(f"epoch must be from 0 to 2**16 - 1, got {self.epoch}")
        if not 0 <= self.turn < 2**24:
            raise ValueError(f"turn must be from 0 to 2**24 - 1, got {self.turn}")


@dataclass(frozen=True)
class Drafted:
    """The input of the supervised pass for R rows; everything is on the logits' device.

    z        [R] int64  noisy ids
    labels   [R] int64  the clean id, or -100 outside the loss region
    kinds    [R] uint8  0 keep: as in xt; 1 mask: a mask; 2 edit: the draft; 6 (bit 2 set): random
    p_draft  [R] fp32   probability of the draft; 0 where kinds is not 2
    n_err    [] int64   drafts that are not the clean id
    bad      [R] bool   the row was read, and had NaN or +inf logits or no finite candidate
    """

    z: Tensor
    labels: Tensor
    kinds: Tensor
    p_draft: Tensor
    n_err: Tensor
    bad: Tensor


def draft_and_corrupt(
    logits: Tensor,
    xt: Tensor,
    x0: Tensor,
    eligible: Tensor,
    options: DraftOptions,
    key: DraftKey,
) -> Drafted:
    """Noisy ids, labels and kinds of R positions, from the logits of the draft pass; one launch.

    logits    [R, V] fp32, bf16 or fp16, last dimension contiguous: logits[r] predicts xt[r], no
              shift; everything is computed in fp32 from these values
    xt        [R] int64, ids of the draft pass: x0 with masks, and wrong ids if there are any
    x0        [R] int64, clean ids
    eligible  [R] bool, rows that take part: response positions of examples that are drafted.
              Others come back as they are, kind 0, without a label

    What becomes of a row is decided from its random words before any logit is read:

    | row of xt | becomes | kind |
    |---|---|---|
    | mask | a mask, with probability keep_mask | 1 |
    | mask | else a random id, with probability p_random where the scope holds drafted rows | 6 |
    | mask | else the draft | 2 |
    | no mask | a random id, with probability p_random where the scope holds visible rows | 6 |
    | no mask | what it is | 0 |

    Only rows that become a draft are read; the logits of others may be anything, so rows without
    a mask can be given any row, expanded. A kind says where an id is from, not whether it is
    right: a draft may equal x0. A random id is uniform over the vocabulary without the mask, the
    forbidden ids and x0, as far as 32 bits divide evenly. The draft is the lowest of the best
    allowed ids, its probability that of the softmax over all of the vocabulary; or it is drawn,
    when forbidden ids leave first, then temperature, softmax, and the first id whose running sum
    exceeds one 24-bit uniform.

    | logits of a row | treated as | bad |
    |---|---|---|
    | NaN | -inf, in the denominator too | yes |
    | +inf | the largest finite fp32 | yes |
    | -inf | probability 0 | no |
    | no finite candidate | stays a mask, kind 1 | yes |

    The random words follow from `key` alone, the outcome of a row from its own arguments alone:
    bit for bit the same in any batch, order or packing, on any number of ranks or threads. Back
    ends agree but for draws within 4 ulp of a boundary between two ids. Reads per drafted row:
    one; a draw reads it again, the C++ back end twice. No gradient flows. Never raises for values
    on the device and never synchronises. Raises TypeError or ValueError for wrong dtypes, shapes,
    devices and forbidden ids outside [0, V).
    Source: arXiv 2606.17175 (drafts replace masks, x0 is recovered); czg1225/DMax, argmax drafts.
    """
    check_logits(logits, 2)
    for name, value, dtype in (
        ("xt", xt, torch.int64),
        ("x0", x0, torch.int64),
        ("eligible", eligible, torch.bool),
        ("key.example", key.example, torch.int64),
        ("key.position", key.position, torch.int64),
    ):
        check_per_row(name, value, dtype, logits.shape[:1], logits.device)
    settings = options.settings(logits.shape[-1])
    logits = logits.detach()
    if torch.compiler.is_compiling():
        return Drafted(
            *torch.ops.fastedit.draft_and_corrupt(
                logits,
                xt,
                x0,
                eligible,
                key.example,
                key.position,
                key.seed,
                key.epoch,
                key.turn,
                **settings,
            )
        )
    return Drafted(
        *implementation("draft_and_corrupt", logits.device.type)(
            logits, xt, x0, eligible, key, **settings
        )
    )
