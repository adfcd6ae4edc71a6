"""What a terminal of 80 columns shows: no line is longer, no name cut, no word broken."""

from __future__ import annotations

import json

import pytest

from fastedit.cli import _command, terminal
from fastedit.cli.terminal import stdout_console, wrapped


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def commands(command=None, path=()):
    command = command or _command()
    yield path, command
    for name, other in getattr(command, "commands", {}).items():
        yield from commands(other, (*path, name))


@pytest.mark.parametrize(
    "path, command",
    list(commands()),
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_help_fits_and_names_everything(run, narrow, path, command):
    code, out, err = run(*path, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    words = out.replace(",", " ").split()
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert set(parameter.opts) <= set(words)
    assert set(getattr(command, "commands", {})) <= set(words)


def test_without_arguments_there_is_help(run, narrow):
    assert run() == run("--help")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a", "--threshold", "-1"),
        ("generate", "a", "--policy", "nonsense"),
        ("generate", "a", "--chekpoint", "b"),
        ("generate", "a", "--dtype", "int4"),
        ("info", "nosuch"),
        ("eval", "--task", "poetry"),
        ("tune",),
        ("train",),
        ("fill", "no hole"),
        ("fill", "a", "--max-new-tokens", "7"),
        ("nonsense",),
    ],
)
def test_errors_fit_and_break_no_word(run, monkeypatch, arguments):
    _, out, whole = run(*arguments)
    assert out == "" and whole.count("\n") == 1
    monkeypatch.setenv("COLUMNS", "80")
    _, _, err = run(*arguments)
    assert err.split() == whole.split()
    assert max(map(len, err.splitlines())) <= 80


def test_a_command_to_copy_stays_in_one_line():
    text = "a " * 36 + "pip install -e '.[train]' (b)"
    assert "pip install -e '.[train]'" in wrapped(text, 80).splitlines()[1]


def test_info_fits(run, narrow):
    for arguments in (("info",), ("info", "tiny")):
        _, out, _ = run(*arguments)
        assert max(map(len, out.splitlines())) <= 80


def test_live_in_a_pipe_or_a_notebook_writes_no_escape_codes(run, checkpoint, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # notebooks set it
    ask = ("generate", "a", "--checkpoint", checkpoint, "--live", "--max-new-tokens", "20")
    _, out, err = run(*ask)
    assert out and "\x1b" not in out + err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert stdout_console().is_terminal
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    assert not stdout_console().is_terminal and not terminal.can_redraw(stdout_console())


def test_json_goes_with_a_file(run, checkpoint, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    ask = ("generate", "--input", source, "--checkpoint", checkpoint, "--max-new-tokens", "4")
    code, out, _ = run(*ask, "--json")
    assert code == 0 and [json.loads(line)["index"] for line in out.splitlines()] == [0, 1]
