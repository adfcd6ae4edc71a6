"""Shared fixtures. Golden cases and data lie beside the checkout; without them, tests skip."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports Triton: it looks when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_arrives():
    """A shell without job control starts background commands with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden checkpoint and cases made by the released decoding loop."""
    folder = SHARED / "golden" / "llada2_tiny"
    if not folder.is_dir():
        pytest.skip("the golden cases are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def golden_cases(golden: Path) -> list[dict]:
    return [json.loads(line) for line in (golden / "cases.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def golden_model(golden: Path):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    return LLaDA2MoeModelLM.from_pretrained(golden, dtype="float32").eval()
