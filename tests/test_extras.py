"""What is said where a package is missing: the line that installs it here."""

import re
import sys
from pathlib import Path

import pytest

from fastedit import extras

ROOT = Path(__file__).parents[1]


def test_the_line_is_that_of_a_clone_or_of_a_wheel(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert extras.install("train") == "pip install -e '.[train]'"
    monkeypatch.chdir(tmp_path)
    assert extras.install("train") == f"pip install -e '{ROOT}[train]'"
    installed = tmp_path / "site-packages" / "fastedit" / "extras.py"
    monkeypatch.setattr(extras, "__file__", str(installed))
    extras._clone.cache_clear()
    try:
        assert extras.install("plot") == "pip install 'fastedit-dlm[plot]'"
    finally:
        extras._clone.cache_clear()


def test_extras_are_those_of_the_project():
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    used = set()
    for file in (ROOT / "fastedit").rglob("*.py"):
        source = file.read_text()
        used |= set(re.findall(r"extras\.(?:require|missing)\(\"\w+\", \"(\w+)\"", source))
        used |= set(re.findall(r"extras\.install\([\"'](\w+)", source))
        assert file.name == "extras.py" or "fastedit-dlm[" not in source
    assert used == {"train", "eval", "plot", "flash"} and used <= set(known)


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("reasoning_gym", ("eval",)),
        ("reasoning_gym", ("tune", "--task", "chain_sum")),
        ("peft", ("generate", "a", "--adapter", "somewhere")),
        ("peft", ("train", "--checkpoint", "tiny", "--data", "none.jsonl", "--output", "run")),
    ],
)
def test_commands_say_it_in_one_line(package, arguments, monkeypatch, tmp_path, capsys):
    from fastedit.cli import main

    extra = {"reasoning_gym": "eval", "peft": "train"}[package]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "somewhere" / "adapter_config.json").write_text("{}")
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert package.replace("_", "-") in err and extras.install(extra) in err
    assert err.count("\n") == 1


def test_the_demo_needs_an_extra_for_its_table_alone(monkeypatch, capsys):
    from fastedit.cli import main

    monkeypatch.setattr("fastedit.cli.live.FRAME_SECONDS", 0)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert main(("demo",)) == 2
    out, err = capsys.readouterr()
    assert out.count("✓ right") == 5 and extras.install("eval") in err
