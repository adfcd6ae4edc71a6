"""Every example runs as it stands, is short, and prints what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PRINTS = {
    "family.py": ["MyDiffusionLM of width 32", "low_confidence:threshold=.9", "24 tokens in"],
    "policy.py": ["hurried:share=0.2", "tokens per forward", "#### -014"],
    "own_loop.py": ["joint_threshold {'forwards'", "remask:tau=0.5 {'forwards'", "#### -014"],
}


def test_there_is_something_to_expect_of_every_example():
    assert {path.name for path in EXAMPLES} == PRINTS.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path):
    assert len(path.read_text().splitlines()) < 60
    ran = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for line in PRINTS[path.name]:
        assert line in ran.stdout
