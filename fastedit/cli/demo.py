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

if TYPE_CHECKING:
    from fastedit.decoder import Decoder

_SUM = "State the final answer to the following arithmetic problem: {} ="
_LEGS = (
    "Your task is to count how many legs there are in total when given a list of animals.\n\n"
    "Now, how many legs are there in total if you have {}?\n"
)
# Held-out questions and their answers, shown live in speed mode. Chosen because the embedded
# checkpoint edits in them; it does in one answer of ten or so.
SHOWN = (
    (_SUM.format("13 - 73"), -60),
    (_SUM.format("5 + 4 + 0 + 0"), 9),
    (_SUM.format("54 - 60 + 76"), 70),
    (_LEGS.format("14 beetles, 12 deers, 2 spiders, 8 sheeps"), 180),
    (_LEGS.format("11 insects, 8 cats, 8 giraffes, 10 birds"), 150),
)
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
    console = stdout_console()
    decoder = load_decoder(checkpoint, options.decode_config())
    console.print(INTRODUCTION, markup=False)
    for question, answer in SHOWN:
        _solve(question, answer, decoder, console)
    with one_line(ImportError):  # what was shown needs no more than fastedit itself
        from fastedit.evaluation.accuracy import evaluate
        from fastedit.tasks import get_task

        tasks = {task: get_task(task) for _, task, _, _ in RUNS}
    results = {}
    for name, task, n, overrides in RUNS:
        plain(console, f"{name}: {n} problems ...")
        with counting(name, n) as advance:
            results[name] = evaluate(decoder, tasks[task], n, on_done=advance, **overrides)
    plain(console, "")
    console.print(comparison(results))
    console.print(CAPTION, markup=False)


def _solve(question: str, answer: int, decoder: Decoder, console: Console) -> None:
    console.print(question, style="bold", markup=False, soft_wrap=True)
    chat = [{"role": "user", "content": question}]
    text, stats = show(decoder.stream(chat, drafts=True, mode="speed"), decoder, console)
    plain(console, printable(text))
    last = text.rpartition("####")[2].strip()
    right = last.lstrip("+-").isdecimal() and int(last) == answer
    verdict = "✓ right" if right else f"✗ wrong, the answer is {answer}"
    counts = f"{stats.tokens} tokens in {stats.forwards} forwards, {stats.t2t_edits} edits"
    console.print(f"{verdict}  ({counts})\n", style="green" if right else "red", soft_wrap=True)
