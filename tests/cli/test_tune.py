"""`fastedit tune` on the embedded checkpoint: its front, its folder, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest

from fastedit import extras
from fastedit.decoder import Decoder
from fastedit.files.locks import locked_folder

SMALL = ("--device", "cpu", "--n", 16, "--max-new-tokens", 48, "--candidates", 5)


@pytest.fixture
def tune(run):
    pytest.importorskip("reasoning_gym")
    return lambda *arguments: run("tune", *SMALL, *arguments)


@pytest.fixture
def data(tmp_path):
    """Ten sums that the embedded checkpoint was made for, and their last numbers."""
    pytest.importorskip("reasoning_gym")
    from fastedit.tasks import get_task

    problems = get_task("chain_sum").test_set(10)
    lines = [{"prompt": p.question, "answer": p.entry["answer"]} for p in problems]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_interrupted_and_resumed_it_ends_where_an_undisturbed_run_does(tune, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    task, folder = ("--task", "chain_sum"), tmp_path / "new" / "folder"
    code, out, _ = tune(*task, "--json")
    whole = json.loads(out)
    assert code == 0 and whole["tried"] == 5 and whole["default"]["policy"] == "joint_threshold"
    assert whole["front"][-1]["held_out"]["accuracy"] > 0.5

    as_completed, left = Decoder.as_completed, iter(range(5))

    def interrupted(self, *arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return as_completed(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "as_completed", interrupted)
        code, out, err = tune(*task, "--output", folder)
    assert code == 130 and out == "" and err.count("\n") == 1
    assert f"5 measurements are in {folder}; the same command goes on from there" in err

    code, out, _ = tune(*task, "--output", folder)
    assert code == 0 and "8 questions of task:chain_sum; held out: 8." in out
    assert all(len(line) <= 80 for line in out.splitlines()[: 4 + len(whole["front"])])
    assert all(entry["policy"] in out for entry in whole["front"])
    assert json.loads((folder / "report.json").read_text()) == whole
    assert (folder / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "front.svg").read_text()

    monkeypatch.setattr(Decoder, "as_completed", None)  # all of it has been measured
    code, out, _ = tune(*task, "--output", folder, "--json")
    assert code == 0 and json.loads(out) == whole
    monkeypatch.setattr("fastedit.cli.tune.load_decoder", None)  # nor is the model loaded
    for changed in (("--policy", "saber"), ("--seed", 1), ("--max-new-tokens", 47), ("--n", 17)):
        code, out, err = tune(*task, *changed, "--output", folder)
        assert code == 2 and out == "" and err.count("\n") == 1
        assert f"{folder} was tuned with another " in err


def test_another_checkpoint_is_refused(tune, checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    options = ("--task", "chain_sum", "--output", tmp_path, "--candidates", 1, "--n", 4)
    assert tune(*options)[0] == 0
    code, _, err = tune(*options, "--checkpoint", checkpoint)
    assert code == 2 and "was tuned with another checkpoint: give the same again" in err


def test_a_file_and_a_policy_whose_given_fields_stay(tune, data):
    options = ("--scorer", "number", "--policy", "wino:threshold=0.5", "--budget", 150)
    code, out, _ = tune("--data", data, *options, "--json")
    report = json.loads(out)
    assert code == 0 and report["searched"] == {"verify_threshold": "0 to 1"}
    assert report["questions"] == {"selection": 5, "held_out": 5} and report["source"] == str(data)
    assert all(entry["policy"].startswith("wino:threshold=0.5") for entry in report["candidates"])
    assert report["default"]["held_out"]["right"] >= 3
    code, out, _ = tune("--data", data, *options, "--candidates", 1)
    assert code == 0 and "two rows per position" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pass one of --task and --data"),
        (("--task", "chain_sum", "--data", "x"), "pass one of --task and --data"),
        (("--task", "chain_sum", "--scorer", "exact"), "--scorer goes with --data"),
        (("--task", "none"), "unknown task 'none'"),
        (("--task", "chain_sum", "--n", 3), "--n must be at least 4; got 3"),
        (("--task", "chain_sum", "--candidates", 0), "candidates must be above 0; got 0"),
        (("--task", "chain_sum", "--budget", 0), "forwards must be above 0; got 0"),
        (("--task", "chain_sum", "--minutes", "nan"), "minutes must be above 0; got nan"),
        (("--task", "chain_sum", "--policy", "remsk"), "policy must be one of"),
        (("--task", "chain_sum", "--policy", "wino:threshold=1,verify_threshold=1"), "nothing to"),
        (("--task", "chain_sum", "--policy", "correction"), "there is none"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_line(tune, arguments, message):
    code, out, err = tune(*arguments)
    assert code == 2 and out == ""
    assert message in err and len(err.strip().splitlines()) == 1


def test_problems_that_do_not_fit_have_a_line_each(tune):
    code, out, err = tune("--task", "chain_sum", "--n", 4, "--max-new-tokens", 99999)
    assert code == 2 and out == ""
    *lines, advice = err.strip().splitlines()
    assert len(lines) == 4 and all("the model has 1024" in line for line in lines)
    assert "--on-bad-line skip" in advice


def test_bad_lines_are_named_before_anything_is_decoded(tune, data, monkeypatch):
    monkeypatch.setattr(Decoder, "as_completed", None)
    with data.open("a") as file:
        file.write('{"prompt": "no answer"}\n')
    code, _, err = tune("--data", data)
    assert code == 2 and "sums.jsonl:11: has no `answer`" in err
    ends = {"messages": [{"role": "assistant", "content": "a"}], "answer": "b"}
    data.write_text(data.read_text().splitlines()[0] + "\n" + json.dumps(ends) + "\n")
    code, _, err = tune("--data", data)
    assert code == 2 and "sums.jsonl:2: the chat ends in a turn of the assistant" in err


def test_without_matplotlib_it_says_what_to_install(tune, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = tune("--task", "chain_sum", "--output", tmp_path)
    assert code == 2 and extras.install("plot") in err
    assert not list(tmp_path.iterdir())


def test_a_second_run_on_a_folder_is_refused_at_once(tune, tmp_path, monkeypatch):
    monkeypatch.setattr("fastedit.cli.tune.load_decoder", None)
    with locked_folder(tmp_path / "front"):
        code, _, err = tune("--task", "chain_sum", "--output", tmp_path / "front")
    assert code == 2 and err.count("\n") == 1 and "is in use by another run (pid " in err
