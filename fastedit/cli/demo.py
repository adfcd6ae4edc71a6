"""`fastedit demo`: problems solved before your eyes, then what editing is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastedit.cli import options
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import one_line
from fastedit.cli.evaluate import evaluate
from fastedit.cli.live import show
from fastedit.cli.report import CAPTION, comparison
from fastedit.cli.terminal import counting, plain, printable, stdout_console

if TYPE_CHECKING:
    from fastedit.decoding import Decoder
    from fastedit.tasks import Problem, Task

# Task -> problems shown live; the first ones of the test set, not chosen ones.
SHOWN = {"chain_sum": 3, "leg_counting": 2}
# Row of the table, task, problems, options.
RUNS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("chain_sum, quality", "chain_sum", 100, {"mode": "quality"}),
    ("chain_sum, speed", "chain_sum", 100, {"mode": "speed"}),
    ("chain_sum, speed, no edits", "chain_sum", 100, {"mode": "speed", "editing_threshold": None}),
    ("leg_counting, quality", "leg_counting", 50, {"mode": "quality"}),
)


def demo_command(checkpoint: options.Checkpoint = "tiny") -> None:
    """Watch a checkpoint solve problems it was not trained on; compare modes, with and without
    editing.
    """
    with one_line(ImportError):
        from fastedit.tasks import get_task

        tasks = {name: get_task(name) for name in SHOWN}
    console = stdout_console()
    decoder = load_decoder(checkpoint, options.decode_config())
    plain(console, "Problems kept out of training. The model writes all tokens of a block at once,")
    plain(console, "commits those it is sure of and edits those it has second thoughts about.\n")
    for name, count in SHOWN.items():
        for problem in tasks[name].test_set(count):
            _solve(problem, tasks[name], decoder, console)
    results = {}
    for name, task, n, overrides in RUNS:
        plain(console, f"{name}: {n} problems ...")
        with counting(name, n) as advance:
            results[name] = evaluate(decoder, tasks[task], n, on_batch=advance, **overrides)
    plain(console, "")
    console.print(comparison(results))
    console.print(CAPTION, markup=False)


def _solve(problem: Problem, task: Task, decoder: Decoder, console: Console) -> None:
    console.print(problem.question, style="bold", markup=False, soft_wrap=True)
    events = decoder.stream(task.messages(problem.question), drafts=True)
    text, stats = show(events, decoder, console)
    plain(console, printable(text))
    right = task.score(text, problem).exact
    verdict = "✓ right" if right else f"✗ wrong, the answer is {problem.entry['answer']}"
    counts = f"{stats.tokens} tokens in {stats.forwards} forwards, {stats.t2t_edits} edits"
    console.print(f"{verdict}  ({counts})\n", style="green" if right else "red", soft_wrap=True)
