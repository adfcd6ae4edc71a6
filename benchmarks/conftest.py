"""Benchmarks collect rows; the run ends with one table, and `--save DIR` keeps it as JSON.

Also the embedded checkpoint and the prompts that several of them decode.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from fastedit import DecodeConfig, Decoder
from fastedit.evaluation.machine import load
from fastedit.tasks import get_task

REQUESTS = 64
ROWS = pytest.StashKey[list]()
LOAD = pytest.StashKey[float | None]()


def pytest_addoption(parser):
    parser.addoption("--save", metavar="DIR", help="write the tables as JSON, one file per suite")
    parser.addoption(
        "--real-sizes", action="store_true", help="also models of published sizes, random weights"
    )


def pytest_configure(config):
    config.stash[ROWS] = []
    config.stash[LOAD] = load()


@pytest.fixture
def report(request):
    """Add one row to the closing table: `report(suite, saved=None, **columns)`.

    `saved` goes into the JSON in place of the columns.
    """

    def add(suite: str, saved: dict | None = None, **columns):
        request.config.stash[ROWS].append((suite, columns, saved or columns))

    return add


@pytest.fixture(scope="module")
def decoder():
    """Quality mode; no EOS ends a request, so the work is known."""
    return Decoder.from_pretrained("tiny", DecodeConfig.quality(eos_token_id=[]))


@pytest.fixture(scope="module")
def prompts(decoder):
    """Chats of one held-out question each, as ids [P]."""
    task, template = get_task("chain_sum"), decoder.tokenizer.apply_chat_template
    chats = [task.messages(problem.question) for problem in task.test_set(REQUESTS)]
    return [
        torch.tensor(template(chat, add_generation_prompt=True, return_dict=False))
        for chat in chats
    ]


def machine() -> dict:
    """Where and when: hardware, versions, the commit with a + where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "triton": _triton(),
        "python": platform.python_version(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or None,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _triton() -> str | None:
    try:
        return importlib.import_module("triton").__version__
    except ImportError:
        return None


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    for suite in dict.fromkeys(name for name, *_ in rows):
        terminalreporter.section(suite)
        terminalreporter.line(markdown([columns for name, columns, _ in rows if name == suite]))
        if config.getoption("save"):
            folder = Path(config.getoption("save"))
            folder.mkdir(parents=True, exist_ok=True)
            saved = [row for name, _, row in rows if name == suite]
            content = {
                "machine": machine() | {"load_before": config.stash[LOAD]},
                "rows": saved,
            }
            (folder / f"{suite}.json").write_text(json.dumps(content, indent=2) + "\n")


def markdown(table: list[dict]) -> str:
    head = list(table[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in table]
    return "\n".join(lines)
