"""Results of `evaluate` in the terminal: one in full, or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

HEADERS = (
    "right answers\n(95% interval)",
    "tokens/\nforward",
    "edits/\n100 tokens",
    "tokens/\nsecond",
)
CAPTION = (
    "right answers: share of problems whose final answer is exactly right; "
    "in brackets where the true share lies, with 95% confidence.\n"
    "tokens/forward: tokens of the answers per run of the model; "
    "decoding one token at a time gives 1.\n"
    "edits/100 tokens: how often the model replaced a token that it had already written.\n"
    "tokens/second: on this machine, problems decoded together."
)


def result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """One result, a line per number."""
    low, high = result["interval"]
    numbers = {
        "right answers": f"{result['accuracy']:.1%}  ({result['exact']} of {result['n']}; "
        f"95% Wilson interval {low:.1%} - {high:.1%})",
        "partial credit": f"{result['partial_credit']:.1%}",
        "tokens per forward": f"{result['tokens_per_forward']:.2f}",
        "edits per 100 tokens": f"{result['edits_per_100_tokens']:.2f}",
        "tokens per second": f"{result['tokens_per_second']:.0f}",
        "forwards per answer": f"{result['forwards'] / result['n']:.1f}",
    }
    if result["failed"]:
        numbers["failed requests"] = str(result["failed"])
    if result["truncated"]:
        numbers["cut off"] = f"{result['truncated']} of {result['n']}, by max_new_tokens"
    for name, number in numbers.items():
        yield f"{name:<22}{number}"


def comparison(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several results, one per row; fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for header in HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for name, result in results.items():
        low, high = result["interval"]
        table.add_row(
            name,
            f"{result['accuracy']:.0%} ({100 * low:.0f}-{high:.0%})",
            f"{result['tokens_per_forward']:.2f}",
            f"{result['edits_per_100_tokens']:.2f}",
            f"{result['tokens_per_second']:.0f}",
        )
    return table
