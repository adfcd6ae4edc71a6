"""Benchmarks collect rows; the run ends with one table, and `--save DIR` keeps it as JSON."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest
import torch

ROWS = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--save", metavar="DIR", help="write the tables as JSON, one file per suite")


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture
def report(request):
    """Add one row to the closing table: `report(suite, **columns)`."""

    def add(suite: str, **columns):
        request.config.stash[ROWS].append({"suite": suite, **columns})

    return add


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        table = [{k: v for k, v in row.items() if k != "suite"} for row in rows]
        table = [line for row, line in zip(rows, table, strict=True) if row["suite"] == suite]
        terminalreporter.section(suite)
        terminalreporter.line(markdown(table))
        if config.getoption("save"):
            folder = Path(config.getoption("save"))
            folder.mkdir(parents=True, exist_ok=True)
            content = {"machine": machine(), "rows": table}
            (folder / f"{suite}.json").write_text(json.dumps(content, indent=2) + "\n")


def markdown(table: list[dict]) -> str:
    head = list(table[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in table]
    return "\n".join(lines)
