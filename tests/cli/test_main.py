"""Entry points, exit codes, one-line errors, start-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastedit import __version__


def test_version(run):
    assert run("--version") == (0, f"fastedit {__version__}\n", "")


def test_module_and_help_import_no_torch():
    code = "import sys, fastedit.cli as c; c.main(['--help']); c.main(['generate', '--help']); " + (
        "print([m for m in ('torch', 'transformers', 'reasoning_gym') if m in sys.modules])"
    )
    helped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert helped.stdout.splitlines()[-1] == "[]", helped.stderr
    module = subprocess.run(
        [sys.executable, "-m", "fastedit", "--version"], capture_output=True, text=True
    )
    assert module.stdout == f"fastedit {__version__}\n"


@pytest.mark.parametrize("command", ["generate", "eval", "info", "demo"])
def test_every_command_has_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"fastedit {command}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["generate"], "give a PROMPT"),
        (["generate", "a", "--input", "f"], "one of them"),
        (["generate", ""], "the prompt is empty"),
        (["generate", " \n"], "the prompt is empty"),
        (["generate", "a", "--output", "f"], "--output goes with --input"),
        (["generate", "a", "--json", "--live"], "exclude each other"),
        (["generate", "--input", "f", "--live"], "not with --input"),
        (["generate", "a", "--threshold", "high"], "'--threshold': 'high': Input should be"),
        (
            ["generate", "a", "--threshold", "-1"],
            "threshold must be a number from 0 to 1 (1 is never); got -1.0",
        ),
        (["generate", "a", "--editing-threshold", "low"], "editing_threshold must be None (off)"),
        (["generate", "a", "--mode", "fast"], "mode must be one of quality, speed"),
        (["generate", "a", "--dtype", "int4"], "--dtype must be one of"),
        (["generate", "a", "--checkpoint", "./missing"], "missing' is not a folder"),
        (["generate", "--input", "missing.jsonl"], "cannot read missing.jsonl"),
        *(
            (verb.split(), "fastedit: missing.jsonl: No such file or directory")
            for verb in (
                "show missing.jsonl",
                "eval --data missing.jsonl --answer-field gold",
                "tune --data missing.jsonl",
            )
        ),
        (["show", "."], "fastedit: .: Is a directory"),
        *(
            ([*verb.split(), "--cache", "all"], "cache must be one of 'exact', 'none', 'prefix'")
            for verb in ("generate a", "fill [MASK]", "eval", "tune --task chain_sum")
        ),
        (["info", "nosuch"], "no checkpoint 'nosuch' here: ids on the Hub are owner/name"),
        (["eval", "--task", "poetry"], "unknown task 'poetry'"),
        (["eval", "--n", "0"], "--n"),
        (["eval", "--no-editing", "--editing-threshold", "0"], "exclude each other"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("fastedit: ") and err.count("\n") == 1


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(run, checkpoint, device):
    code, _, err = run("generate", "a", "--checkpoint", checkpoint, "--device", device)
    assert code == 2
    assert err.startswith("fastedit: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", ["info", "eval", "demo", "train"])
def test_interrupt_is_said(run, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name in ("info.collect", "options.decode_config", "train._run_options"):
        monkeypatch.setattr(f"fastedit.cli.{name}", interrupted)
    code, _, err = run(command)
    assert code == 130 and "fastedit: interrupted" in err


def test_interrupt_during_the_first_imports_is_said():
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from fastedit.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "fastedit: interrupted\n")


def test_unavailable_back_end_is_one_line(run, checkpoint, monkeypatch):
    monkeypatch.setenv("FASTEDIT_BACKEND", "abacus")
    code, _, err = run("generate", "a", "--checkpoint", checkpoint)
    assert code == 2
    assert err.startswith("fastedit: unknown back end 'abacus'")


def test_a_bug_is_not_disguised_as_a_mistake(run, checkpoint, monkeypatch):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    def broken(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", broken)
    with pytest.raises(TypeError, match="a bug"):
        run("generate", "a", "--checkpoint", checkpoint)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fastedit", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "fastedit: cannot write the output: No space left on device\n"
