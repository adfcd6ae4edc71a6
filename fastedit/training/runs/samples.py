"""What the model makes of a fixed prompt, now and then, in `samples.jsonl`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback

from fastedit.config import DecodeConfig
from fastedit.decoder import Decoder
from fastedit.files.jsonl import as_line
from fastedit.heads import Head
from fastedit.policies import Policy
from fastedit.training.data.documents import Document
from fastedit.training.runs.checkpoints import StepLog


class Sample(NamedTuple):
    """A decoded prompt: the text, and what the data has there."""

    step: int
    prompt: str
    text: str
    expected: str


class Samples(TrainerCallback):
    """Decodes the prompt of a document every `every` steps, greedily, at most 256 tokens, by
    `policy`, which may read the head that trains beside the model.

    What is expected is its first response, in a chat the first turn of the assistant, and as many
    blocks as hold it are decoded.
    Decoding draws nothing from torch's generators, so training is the same with it and without.
    A decode that fails is a finding, and not the end of a run: its error stands in the record, and
    `say` gets it the first time.
    """

    def __init__(
        self,
        document: Document,
        tokenizer: Any,
        log: StepLog,
        every: int,
        block_size: int,
        mask_token_id: int,
        say: Callable[[str], None],
        show: Callable[[Sample], None],
        policy: Policy | None = None,
    ) -> None:
        start, length = document.prompt_length, document.answer_length
        self.prompt: Tensor = torch.from_numpy(document.ids[:start]).long()
        answer = document.ids[start : start + length]
        self.expected = tokenizer.decode(answer, skip_special_tokens=True)
        self.tokenizer, self.log, self.every = tokenizer, log, every
        self.say, self.show, self._said = say, show, False
        self.config = DecodeConfig(
            policy=policy,
            mask_token_id=mask_token_id,
            block_length=block_size,
            max_new_tokens=min(256, -(-length // block_size) * block_size),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        base = model.base
        base.eval()
        text = self._decode(base, model.beside)
        base.train()
        prompt = self.tokenizer.decode(self.prompt, skip_special_tokens=True)
        sample = Sample(state.global_step, prompt, text, self.expected)
        self.log.add(sample._asdict())
        self.show(sample)

    def _decode(self, model: Any, head: Head | None) -> str:
        try:
            if head is not None and next(head.parameters()).dtype != model.dtype:
                head = copy.deepcopy(head).to(model.dtype)
            decoder = Decoder(model, self.tokenizer, self.config, head=head)
            room = model.config.max_position_embeddings - len(self.prompt)
            tokens = min(self.config.max_new_tokens, room)
            return (decoder.generate([self.prompt], max_new_tokens=tokens).texts or [""])[0]
        except Exception as error:  # whatever it is, the weights are fine
            if not self._said:
                self._said = True
                self.say(f"the example cannot be decoded: {as_line(error)}")
            return f"({error})"
