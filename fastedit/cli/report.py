"""Results of `evaluate` in the terminal: one in full, or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

HEADERS = (
    "right answers\n(95% interval)",
    "tokens/\nforward",
    "edits/\n100 tokens",
    "tokens/\nsecond",
)
POLICIES_HEADERS = (
    "right answers\n(95% interval)",
    "TPF",
    "forwards",
    "edits",
    "remasks",
    "tokens/\nsecond",
)
POLICIES_CAPTION = (
    "TPF: tokens per forward. forwards: per answer, in blocks of rows, so that a forward with "
    "shadow rows counts 2 and one over m blocks m; a corrector pass is a forward. "
    "edits, remasks: per 100 tokens."
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
    if result["remasks"]:
        numbers["remasks per 100 tokens"] = f"{result['remasks_per_100_tokens']:.2f}"
    if result["failed"]:
        numbers["failed requests"] = str(result["failed"])
    if result["unscored"]:
        numbers["not scored"] = str(result["unscored"])
    if result["truncated"]:
        numbers["cut off"] = f"{result['truncated']} of {result['n']}, by max_new_tokens"
    for name, number in numbers.items():
        yield f"{name:<22}{number}"


def policies_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of `evaluation.policies.compared`, those that ran; fits 80 columns.

    Rows of several models say which, before the policy.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("policy", overflow="fold")
    for header in POLICIES_HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        if "reason" in row:
            continue
        low, high = row["interval"]
        name, _, fields = row["policy"].partition(":")
        name += "*" if row["needs_training"] else ""
        told = name + (f": {fields.replace(',', ', ')}" if fields else "")
        table.add_row(
            Text(f"{row['model']}, {told}" if "model" in row else told),  # may wrap at spaces
            f"{row['accuracy']:.0%} ({100 * low:.0f}-{high:.0%})",
            f"{row['tokens_per_forward']:.2f}",
            f"{row['block_forwards'] / row['n']:.1f}",
            f"{row['edits_per_100_tokens']:.1f}",
            f"{row['remasks_per_100_tokens']:.1f}",
            f"{row['tokens_per_second']:.0f}",
        )
    return table


def paired_lines(pairs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What became of the answers to the same questions, a line per setting."""
    for pair in pairs:
        name = f"{pair['policy']}: " if len(pairs) > 1 else ""
        yield (
            f"{name}wrong->right {pair['wrong_to_right']}, right->wrong "
            f"{pair['right_to_wrong']}, McNemar p {pair['p']:.2g}"
        )


def remarks(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a table of policies cannot show, a line each."""
    told: set[str] = set()  # rows of several models have one policy
    for row in rows:
        if "reason" in row:
            yield f"not run: {row['policy']}: {row['reason']}"
            continue
        if row["needs_training"] and row["policy"] not in told:
            told.add(row["policy"])
            yield f"* {row['policy']}: for a model trained {row['needs_training']}"
        for name, key in (
            ("failed requests", "failed"),
            ("cut off", "truncated"),
            ("not scored", "unscored"),
        ):
            if row[key]:
                model = f", {row['model']}" if "model" in row else ""
                yield f"{row['policy']}{model}: {name}: {row[key]} of {row['n']}"


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
