"""Every example, and the Python of every page, runs as it stands and prints what it promises."""

import re
import runpy
from pathlib import Path

import pytest

from fastedit.models import families
from fastedit.policies import POLICIES

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PRINTS = {
    "family.py": ["MyDiffusionLM of width 32", "low_confidence:threshold=.9", "24 tokens in"],
    "policy.py": ["hurried:share=0.2", "tokens per forward", "#### -014"],
    "own_loop.py": ["joint_threshold {'forwards'", "remask:tau=0.5 {'forwards'", "#### -014"],
}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [page for folder in (ROOT, ROOT / "docs") for page in sorted(folder.glob("*.md"))]
MARKS = {
    "torchao": pytest.mark.engines,
    "diffusers": pytest.mark.engines,
    "fastedit.evaluation.tuning": pytest.mark.slow,
}


def code_of(page):
    """All of its Python; what some environments lack, or takes long, by itself."""
    quick = []
    for block in BLOCK.findall(page.read_text()):
        marks = [mark for name, mark in MARKS.items() if f"from {name}" in block]
        if marks:
            yield pytest.param([block], id=page.name, marks=marks)
        else:
            quick.append(block)
    if quick:
        yield pytest.param(quick, id=page.name)


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch):
    """Examples add rules and families of their own."""
    known = dict(POLICIES)
    monkeypatch.setattr(families, "_ROWS", [*families._ROWS])
    yield
    POLICIES.clear()
    POLICIES.update(known)


def test_there_is_something_to_expect_of_every_example():
    assert {path.name for path in EXAMPLES} == PRINTS.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path, capsys):
    assert len(path.read_text().splitlines()) < 60
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    for line in PRINTS[path.name]:
        assert line in printed


@pytest.mark.parametrize("blocks", [code for page in PAGES for code in code_of(page)])
def test_the_python_of_a_page_runs(blocks, tmp_path, monkeypatch):
    """Its blocks one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "a_page"}
    for block in blocks:
        exec(compile(block, "a page", "exec"), names)
