"""`fastedit demo`: problems solved before your eyes, then what editing is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from fastedit.cli import options
from fastedit.cli.canvas import MASK, NEWLINE_SIGN, SIGNS, SPECIAL_SIGN
from fastedit.cli.checkpoint import load_decoder
from fastedit.cli.errors import one_line
from fastedit.cli.live import show
from fastedit.cli.report import CAPTION, comparison
from fastedit.cli.terminal import counting, plain, printable, stdout_console
from fastedit.evaluation.accuracy import evaluate

if TYPE_CHECKING:
    from fastedit.decoder import Decoder
    from fastedit.tasks import Problem, Task

# Task -> places in the test set of the problems shown live, in speed mode. Chosen because the
# embedded checkpoint edits in them; it does in one answer of ten or so.
SHOWN = {"chain_sum": (14, 44, 58), "leg_counting": (16, 39)}
INTRODUCTION = (
    "Problems kept out of training, chosen for their edits. The model writes all tokens of a block "
    "at once, commits those it is sure of and edits those it has second thoughts about.\n"
    f"{SIGNS[MASK]} is a mask, [x] an edit, {NEWLINE_SIGN} a new line, {SPECIAL_SIGN} the end.\n"
    "Running totals of sums start from 500, so that none is negative; the answer starts from 0.\n"
    "To ask one of them yourself: fastedit generate --mode speed 'QUESTION', in Python "
    'decoder.chat("""QUESTION""", mode="speed").\n'
)
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
    console.print(INTRODUCTION, markup=False)
    for name, places in SHOWN.items():
        problems = tasks[name].test_set(max(places) + 1)
        for place in places:
            _solve(problems[place], tasks[name], decoder, console)
    results = {}
    for name, task, n, overrides in RUNS:
        plain(console, f"{name}: {n} problems ...")
        with counting(name, n) as advance:
            results[name] = evaluate(decoder, tasks[task], n, on_done=advance, **overrides)
    plain(console, "")
    console.print(comparison(results))
    console.print(CAPTION, markup=False)


def _solve(problem: Problem, task: Task, decoder: Decoder, console: Console) -> None:
    console.print(problem.question, style="bold", markup=False, soft_wrap=True)
    events = decoder.stream(task.messages(problem.question), drafts=True, mode="speed")
    text, stats = show(events, decoder, console)
    plain(console, printable(text))
    right = task.score(text, problem).exact
    verdict = "✓ right" if right else f"✗ wrong, the answer is {problem.entry['answer']}"
    counts = f"{stats.tokens} tokens in {stats.forwards} forwards, {stats.t2t_edits} edits"
    console.print(f"{verdict}  ({counts})\n", style="green" if right else "red", soft_wrap=True)
