"""One request: its prompt and settings, and what has been committed of it so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from fastedit.config import DecodeConfig
from fastedit.memory.extents import NOWHERE, Extent
from fastedit.models.families import Family
from fastedit.policies import Policy
from fastedit.prompts.tracker import TextTracker
from fastedit.request.layout import Layout
from fastedit.request.record import Record
from fastedit.request.recorder import Recorder
from fastedit.request.stalls import Progress
from fastedit.results import (
    BadLogitsError,
    DecodeBoundError,
    DecodeStalledError,
    DecodeStats,
    RequestError,
)


@dataclass(eq=False)
class Request(Layout):
    """A prompt on its way through the engine.

    prompt   [P] int64 on the CPU; P >= 1, unless there is a draft
    policy   the decision rule, with this request's parameters; family: of the model
    eos      ids that end a generation
    mask_token_id  the mask
    draft    [D] int64, what decoding starts from behind the prompt, in place of masks; D is at
             most max_new_tokens. With keep_draft its tokens never change, and only masks are filled
    text     follows the committed text and looks for stop strings; None without a tokenizer
    on_draft called with (request, block ids [L], block logits [L, V]) after every forward
    on_block called with (request, newly committed ids) at the end of every block
    recorder what happens to it, where it is traced
    """

    index: int
    prompt: Tensor
    config: DecodeConfig
    seed: int
    eos: frozenset[int]
    policy: Policy
    mask_token_id: int
    family: Family = field(default_factory=Family)
    text: TextTracker | None = None
    draft: Tensor | None = None
    keep_draft: bool = False
    on_draft: Callable[[Request, Tensor, Tensor], None] | None = None
    on_block: Callable[[Request, list[int]], None] | None = None
    recorder: Recorder | None = None

    generated: list[int] = field(default_factory=list)
    # All ids of the blocks so far: also what lies behind an end, or beyond max_new_tokens.
    written: list[int] = field(default_factory=list)
    stats: DecodeStats = field(default_factory=DecodeStats)
    finished: bool = False
    error: RequestError | None = None
    number: int = -1  # that the engine knows it by
    slot: int = -1
    extent: Extent = NOWHERE  # its positions in the pool, while it is in
    filled: int = 0  # positions whose keys and values are in the pool
    first: int = 0  # as `Layout` says, and the next two
    origin: int = 0
    start: int = 0
    entered: int = 0  # step of its lane at which the active block began
    step: int = 0  # and the last one that the host has followed
    restarts: int = 0  # how often memory ran out, so that the active block began again
    reopened: bool = False  # whether the next forward takes the blocks before the active one along
    beside: int = 0  # blocks that forwards of the active one took along, for having been reopened
    moves: Tensor | None = None  # [3, L], of the last step that was shown, as in `policies.State`
    bad: BadLogitsError | None = None  # ends the request at the end of its block
    committed: bool = False  # the active block is final; only its KV may be outstanding
    progress: Progress = field(default_factory=Progress)  # of the active block

    def __post_init__(self) -> None:
        self.stats.seed, self.stats.approximate = self.seed, self.config.approximate
        length, prompt = self.block_length, len(self.prompt)
        self.first = prompt % length if self.family.blocks == "after_prompt" else 0
        self.start = self.origin = (prompt - self.first) // length * length + self.first
        if self.policy.variable:  # one block: the last token of the prompt, and all behind it
            self.first = self.start = self.origin = max(prompt - 1, 0)
        self.finished = self.config.max_new_tokens == 0

    @cached_property
    def bound(self) -> int:
        """Forwards that a block may take."""
        return self.policy.most_forwards(self.block_length)

    def follow(self, record: Record, row: int) -> bool:
        """Do what the device did to this request's row; True when it opened its next block."""
        self._take_along()
        self.reopened = record.reopened[row]
        if not record.done[row]:
            over = record.step - self.entered > self.bound
            if over or self.bad or self.config.strict_reference:
                self._check_progress(record, row, over)
            return False
        if self.committed:  # the forward that only refreshed the KV is over
            self._took(1)
        else:
            if self.bad:
                self._stop(record, row, self.bad)
                return False
            self._count(record, row)
            self.commit(record.row(row).tolist())
            if self.finished or (record.dirty[row] and self.cached):
                return False
        self.next_block(record.step)
        return True

    def commit(self, block: list[int]) -> None:
        """Take the ids of its slot, where they are final; finishes where it should end.

        block: those of the block that is done, last, behind what stands before it where that may be
        reopened; or all that is generated. What a later decision may write waits.
        """
        first, behind = max(self.fixed, len(self.prompt)), self.start + self.block_length
        stop, begin = self._fixed_at(behind), behind - len(block)
        if self.policy.wide:
            begin = self.base
            if not self._over(block[behind - begin - 1]):
                self.committed = True
                return
        if self.policy.variable:
            most = self.policy.most_tokens or 0
            begin, stop = self.base, max(most, self.end)
        elif self.policy.wide or self.start == self.last:
            stop = min(behind, self.end)
        changed = block[first - begin : behind - begin]
        new = changed[: max(stop - first, 0)]
        before = len(self.generated)
        self.generated += new
        ended = self._cut(before)
        # Together: what was written before the block is what a restart of the block begins with.
        self.written[first - len(self.prompt) :], self.committed = changed, True
        self.stats.tokens = len(self.generated)
        self.finished = self.start == self.last or (ended and self._may_stop_early())
        if self.recorder:
            self.recorder.commit(self, before)
        if self.on_block and new:
            self.on_block(self, self.generated[before:])

    def next_block(self, step: int) -> None:
        self.start += self.block_length
        self.entered, self.committed, self.progress = step, False, Progress()
        self.reopened, self.beside = False, 0

    def rewind(self) -> None:
        """Back to where the active block began, for a later admission.

        To where all of them began where none of them is final yet.
        """
        if self.policy.wide:
            before = self.stats.prefill_forwards
            self.stats = DecodeStats(seed=self.seed, prefill_forwards=before)
            self.start, self.committed = self.origin, False
        if self.committed:  # whose prefill does what the outstanding forward would have done
            self._take_along()
            self._took(1)
            self.next_block(self.entered)
        del self.generated[self.stats.tokens :]  # half of a commit, where Ctrl-C came
        del self.written[max(self.start - len(self.prompt), 0) :]
        if self.text:
            self.text.update(self.generated)
        self.restarts += 1
        self.filled = self.beside = 0
        if self.recorder:
            self.recorder.rewind(self)
        self.reopened, self.bad, self.progress = False, None, Progress()

    def fail(self, error: RequestError) -> None:
        """End here; what has been committed so far stays the result."""
        self.error = error
        self.stop("error")

    def stop(self, reason: str) -> None:
        """End here, for this reason, with what has been committed."""
        self.stats.finish_reason, self.finished = reason, True
        if reason == "aborted" and self.slot >= 0:
            self._took(max(self.step - self.entered, 0))
        if len(self.generated) > self.stats.tokens:  # half of a commit, where Ctrl-C came
            del self.generated[self.stats.tokens :]
            if self.text:
                self.text.update(self.generated)

    def _stop(self, record: Record, row: int, error: RequestError) -> None:
        self._count(record, row)
        self.fail(error)

    def _count(self, record: Record, row: int) -> None:
        stats, counts = self.stats, record.counts(row)
        self._took(record.step - self.entered)
        stats.m2t_commits += counts.m2t_commits
        stats.t2t_edits += counts.t2t_edits
        stats.remasks += counts.remasks
        stats.inserts += counts.inserts
        stats.deletes += counts.deletes
        stats.capped |= record.capped[row]

    def _take_along(self) -> None:
        """A forward takes the blocks before the active one along, where they are reopened."""
        if self.reopened:
            behind = (self.start - self.origin) // self.block_length
            self.beside += min(self.policy.window - 1, behind)

    def _took(self, forwards: int) -> None:
        """So many, with what they took along."""
        self.stats.forwards += forwards
        rows = 2 if self.policy.plan == "shadow" else 1
        self.stats.block_forwards += rows * forwards + self.beside
        self.beside = 0

    def _check_progress(self, record: Record, row: int, over: bool) -> None:
        """End this request where its active block cannot end by itself.

        A block that takes more forwards than its policy allows is a fault of the policy, unless
        the mask may be chosen: then edits may write masks back, and fills may write nothing.
        """
        greedy = self.config.temperature == 0.0
        if self.bad and (over or (greedy and not record.dirty[row])):
            self._stop(record, row, self.bad)
        elif self.config.strict_reference:
            stalled = over
            if self.policy.stateless:
                ids, stuck = record.ids[row].tolist(), greedy and not record.dirty[row]
                stalled = stuck or self.progress.stalled(ids, self.mask_token_id, greedy)
            if stalled:
                self._stop(record, row, DecodeStalledError(self.index))
        elif over:
            self._stop(record, row, DecodeBoundError(self.index, self.bound, str(self.policy)))

    def _cut(self, before: int) -> bool:
        """Cut behind the first EOS or the token that completes a stop text; True if there is one.

        Released loops that do not stop early go on after an EOS; what follows it is never kept.
        """
        if self.stats.finish_reason != "length":
            del self.generated[before:]
            return True
        ends = [i for i in range(before, len(self.generated)) if self.generated[i] in self.eos]
        if ends:
            del self.generated[ends[0] + 1 :]
            self.stats.finish_reason = "eos"
        if self.text is not None:
            final = self.start == self.last or self.stats.finish_reason != "length"
            kept = self.text.update(self.generated, final)
            if kept is not None:
                del self.generated[kept:]
                self.stats.finish_reason = "stop"
        return self.stats.finish_reason != "length"

    def _over(self, last: int) -> bool:
        """Whether a wide request ends behind the active block, whose last token is `last`.

        An EOS further inside may still be replaced. Source: ProSeCo's released loop.
        """
        return self.start == self.last or (self.config.eos_early_stop and last in self.eos)

    def _may_stop_early(self) -> bool:
        return self.config.eos_early_stop or self.stats.finish_reason == "stop"
