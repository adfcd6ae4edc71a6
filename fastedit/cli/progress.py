"""Training as it is seen: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from fastedit.cli.terminal import printable, progress_bar, tell

if TYPE_CHECKING:
    from fastedit.training.runs.samples import Sample

LINES = 20  # of a run without a terminal
# Shares that are shown, of edits and of a correction head, by their names in the logs.
SHARES = {
    "masked_accuracy": "masked",
    "edit_accuracy": "edit",
    "recall_half": "errors found",
    "false_alarms_half": "false alarms",
}


class TrainingProgress(TrainerCallback):
    """A progress bar with loss, `SHARES` and tokens/s; a context manager."""

    def __init__(self, visible: bool = True) -> None:
        metrics = "{task.fields[metrics]}"
        self.bar = progress_bar("training", metrics, visible=visible, transient=False)
        self.visible, self.on_terminal = visible, not self.bar.disable

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """A remark, above the bar."""
        if not self.visible:
            return
        if self.on_terminal:
            self.bar.console.print(line, markup=False, soft_wrap=True)
        else:
            tell(line)

    def show(self, sample: Sample) -> None:
        """A decoded example, in one line each."""
        self.say(f"example at step {sample.step}: {printable(sample.text, ' ⏎ ')}")
        self.say(f"  the data has: {printable(sample.expected, ' ⏎ ')}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.task = self.bar.add_task(
            "training", total=state.max_steps, completed=state.global_step, metrics=""
        )
        self.bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "eval_loss" in logs:
            self.say(f"validation at step {state.global_step}: {_metrics(logs, 'eval_')}")
        elif "loss" in logs:
            metrics = _metrics(logs)
            self.bar.update(self.task, completed=state.global_step, metrics=metrics)
            every = max(1, state.max_steps // LINES)
            if not self.on_terminal and state.global_step % every == 0:
                self.say(f"step {state.global_step}/{state.max_steps}: {metrics}")


def _metrics(logs: dict[str, Any], prefix: str = "") -> str:
    parts = [f"loss {logs[f'{prefix}loss']:.4f}"]
    for key, name in SHARES.items():
        if f"{prefix}{key}" in logs:
            value = logs[f"{prefix}{key}"]
            parts.append(f"{name} {'-' if value is None else f'{value:.1%}'}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
