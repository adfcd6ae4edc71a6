"""`transformers.Trainer` around a training step: one division, exact metrics, whole checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from fastedit.heads.base import Head
from fastedit.models.adapters import save_control_tokens
from fastedit.training.base import Step
from fastedit.training.data.order import EPOCHS
from fastedit.training.runs.checkpoints import UNFINISHED, StepLog, checkpoints, discard, publish
from fastedit.training.runs.folder import HEAD

VALIDATION_EPOCH = EPOCHS  # training does not get there


class _Intervals(TrainerCallback):
    """Save and validate as the arguments say, also where a checkpoint brings a state of its own."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.compute_steps(args, state.max_steps)


class _Epochs(TrainerCallback):
    """How often the data has been read, where the Trainer counts shares of the run."""

    def __init__(self, order: Any, batch_size: int) -> None:
        self.per_step = batch_size / order.per_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.epoch = round(state.global_step * self.per_step, 4)


class EditTrainer(Trainer):
    """Trains what a `Step` says; `self.model` is the step, so that DDP and FSDP wrap its passes.

    The Trainer's own: the loop, gradient accumulation, clipping, optimiser, schedule, mixed
    precision, DDP and FSDP, what a checkpoint holds. Here: what the loss is divided by, what is
    logged, and that a checkpoint appears whole. Expects logging_steps=1, and a data set in the
    order of the run.
    """

    def __init__(
        self,
        *args: Any,
        log: StepLog | None = None,
        validation_log: StepLog | None = None,
        samples_log: StepLog | None = None,
        optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] | None = None,
        **kwargs: Any,
    ) -> None:
        self.make_optimizer = optimizer
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # the loss is divided in compute_loss, and only there
        # In the first process; the samples' is written by their callback.
        self.step_log, self.validation_log, self.samples_log = log, validation_log, samples_log
        self.add_callback(_Intervals())
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        self.add_callback(_Epochs(self.train_dataset, rows * self.args.world_size))
        # Of the step so far: what was seen, tokens.
        self._totals = torch.zeros(self.step.seen_size + 1, device=self.args.device)
        self.seen = [0.0] * self.step.seen_size  # of this run, since it was started or resumed
        self._labels = 0.0
        self._last_log = time.perf_counter()
        self._in_unfinished = False

    @property
    def step(self) -> Step:
        return self.accelerator.unwrap_model(self.model)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The one that was asked for, or the Trainer's own AdamW."""
        if self.optimizer is None and self.make_optimizer is not None:
            module: Any = self.model if model is None else model
            self.optimizer = self.make_optimizer(module, self.args.learning_rate)
        return super().create_optimizer(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        order: Any = train_dataset or self.train_dataset
        return SequentialSampler(order)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """The micro-batches of a step, and what the losses of all processes are divided by."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        with self.accelerator.autocast():
            done = self.state.global_step / self.state.max_steps
            batches = [self.step.prepared(batch, done) for batch in batches]
        counts = sum(self.step.count(batch).to(self.args.device) for batch in batches)
        counts = self.accelerator.reduce(counts, reduction="sum")
        self._labels = float(counts.sum())
        return self.step.settled(batches, counts)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch=None
    ) -> Any:
        output = model(**inputs)
        tokens = (inputs["example"] >= 0).sum()[None]
        self._totals += torch.cat([output.seen, tokens]).to(self._totals)
        # Data-parallel wrappers average gradients over processes; this makes it a sum.
        processes = self.accelerator.num_processes
        loss = output.loss / max(1, num_items_in_batch) * processes
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the step's metrics to its loss; a line of `metrics.jsonl`.

        Raises FloatingPointError where the loss or a gradient is not finite, so that no checkpoint
        is made of what they left behind.
        """
        if "loss" not in logs:
            super().log(logs, *args, **kwargs)
            return
        step = self.state.global_step
        record: dict[str, Any] = {"step": step, "epoch": self.state.epoch, "loss": logs["loss"]}
        record |= self._take_totals()
        record |= {name: logs[name] for name in ("grad_norm", "learning_rate") if name in logs}
        record["labels"] = int(self._labels)
        for name in ("loss", "grad_norm"):
            self._check_finite(name, record.get(name, 0.0))
        if self.step_log is not None:
            self.step_log.add(record)
        super().log(record, *args, **kwargs)
        self.state.log_history.clear()  # metrics.jsonl has it; every checkpoint would again

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value} at step {self.state.global_step}: start anew, with a lower "
                "--learning-rate and another --output"
            )

    def _take_totals(self) -> dict[str, float | None]:
        totals = self.accelerator.reduce(self._totals, reduction="sum").tolist()
        self._totals.zero_()
        self.seen = [before + more for before, more in zip(self.seen, totals[:-1], strict=True)]
        now = time.perf_counter()
        seconds, self._last_log = now - self._last_log, now
        parts = self.step.seconds().items()
        return {
            **self.step.report(totals[:-1]),
            "tokens": int(totals[-1]),
            "tokens_per_second": round(totals[-1] / seconds, 1),
            **{f"{name}_share": round(spent / seconds, 6) for name, spent in parts},
        }

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loss and rates over the validation rows, with the same noise every time.

        Raises FloatingPointError where the loss is not finite, as `log` does.
        """
        began = time.perf_counter()
        self.model_wrapped.eval()
        totals = torch.zeros(self.step.seen_size + 2, device=self.args.device)
        judged = []
        for batch in self.get_eval_dataloader():
            with self.accelerator.autocast():
                batch = self.step.prepared(batch | {"epoch": VALIDATION_EPOCH})
            output = self.model_wrapped(**batch)
            parts = (output.seen, output.loss[None], output.labels[None])
            totals += torch.cat([part.to(totals) for part in parts])
            if output.judged is not None:
                judged.append(tuple(part.cpu().numpy() for part in output.judged))
        self.model_wrapped.train()
        sums = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics: dict[str, Any] = {"eval_loss": sums[-2] / max(1.0, sums[-1])}
        self._check_finite("eval_loss", metrics["eval_loss"])
        rates = self.step.report(sums[:-2]) | self.step.report_judged(gather_object(judged))
        metrics |= {f"eval_{name}": value for name, value in rates.items()}
        self.log(metrics)
        if self.validation_log is not None:
            self.validation_log.add(
                {"step": self.state.global_step, "epoch": self.state.epoch, **metrics}
            )
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self.step.seconds()  # nor are its parts
        self._last_log += time.perf_counter() - began  # not part of the speed of training
        return metrics

    def _get_output_dir(self, trial: Any) -> str:
        output = super()._get_output_dir(trial)
        return str(Path(output) / UNFINISHED) if self._in_unfinished else output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write beside the other checkpoints, flush, rename; then remove those too many."""
        began = time.perf_counter()
        self._in_unfinished = True
        super()._save_checkpoint(model, trial)
        self._in_unfinished = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            for log in (self.step_log, self.validation_log, self.samples_log):
                if log is not None:
                    log.flush()
            output = Path(str(self.args.output_dir))
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            publish(output / UNFINISHED / name, output / name)
            for old in checkpoints(output)[: -(self.args.save_total_limit or 1)]:
                discard(old)
        self.accelerator.wait_for_everyone()
        self._last_log += time.perf_counter() - began

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The model of the step, not the step: what plain peft or transformers load."""
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            save_weights(self.step.trained, folder, state_dict)
            if self.step.beside is not None:
                self.step.beside.save_pretrained(folder / HEAD)
            tokenizer: Any = self.processing_class
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif hasattr(self.step.trained, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, self.step.trained)
        elif isinstance(head := self.step.trained, Head):
            _restore(head, resume_from_checkpoint)
        # A model that trains as a whole was loaded from the checkpoint to begin with.
        if self.step.beside is not None:
            _restore(self.step.beside, Path(resume_from_checkpoint) / HEAD)

    def export(self, folder: Path) -> None:
        """The result, as in `_save`, gathered where it is sharded; a head lies beside it."""
        state_dict = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        if self.args.should_save:
            unfinished = folder.parent / UNFINISHED / folder.name
            self._save(str(unfinished), state_dict)
            if self.step.beside is not None:
                publish(unfinished / HEAD, folder.parent / HEAD)
            publish(unfinished, folder)
        self.accelerator.wait_for_everyone()


def _restore(head: Head, folder: str | Path) -> None:
    head.load_state_dict(head.from_pretrained(folder).state_dict())


def save_weights(model: Any, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """`state_dict` is that of the step around `model`, where `model` cannot give its own."""
    options: dict[str, Any] = {}
    if state_dict is not None:
        options["state_dict"] = {n.removeprefix("model."): t for n, t in state_dict.items()}
    if hasattr(model, "peft_config"):
        options["save_embedding_layers"] = (
            False  # rows of new tokens are apart; "auto" may ask the Hub
        )
    model.save_pretrained(folder, **options)
    if hasattr(model, "peft_config"):  # else they lie in config.json
        save_control_tokens(model.config, folder)
