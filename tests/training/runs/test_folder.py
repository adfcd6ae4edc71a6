"""A run begins where nothing is lost, and goes on only as the run it was."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest

pytest.importorskip("accelerate")

from fastedit.training.runs import folder
from fastedit.training.runs.folder import (
    begin,
    check_resumed,
    check_same,
    first_process,
    run_to_go_on,
)
from fastedit.training.runs.settings import RunOptions


def options(output, **changes):
    base = {"checkpoint": "tiny", "data": "x", "output": str(output), "steps": 1}
    return RunOptions.from_mapping({**base, **changes})


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "validation.jsonl",
        "samples.jsonl",
        ".unfinished/",
        "adapter/",
        "checkpoint/",
        "checkpoint-7/",
        "run.json",
    ],
)
def test_what_no_run_has_made_is_left_alone(tmp_path, name, resume):
    (tmp_path / "notes.txt").write_text("beside a run there may be anything")
    for beside in ("checkpoint-best", "2024"):
        (tmp_path / beside).mkdir()
    assert run_to_go_on(tmp_path, resume) is None
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match=f"holds {name.rstrip('/')}, .*another --output"):
        run_to_go_on(tmp_path, resume)


def test_a_run_that_made_no_step_is_no_obstacle(tmp_path):
    begin(options(tmp_path), "digest")
    (tmp_path / "metrics.jsonl").write_text("")
    assert run_to_go_on(tmp_path, False) is None and run_to_go_on(tmp_path, True) is None


def test_steps_that_no_checkpoint_holds_are_no_obstacle(tmp_path):
    begin(options(tmp_path, steps=9), "digest")
    for name in ("validation.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 8}\n{"step": 9')
    assert run_to_go_on(tmp_path, False) is None and run_to_go_on(tmp_path, True) is None


@pytest.mark.parametrize(
    "trace",
    ["metrics.jsonl", "validation.jsonl", "samples.jsonl", "checkpoint-3/", "adapter/", "head/"],
)
def test_a_run_goes_on_when_asked_to(tmp_path, trace):
    """The steps are those of a whole run."""
    begin(options(tmp_path), "digest")
    path = tmp_path / trace
    path.mkdir() if trace.endswith("/") else path.write_text('{"step": 1}\n')
    with pytest.raises(FileExistsError, match="pass --resume"):
        run_to_go_on(tmp_path, False)
    assert run_to_go_on(tmp_path, True)["data"] == "digest"


def test_only_what_differs_is_named(tmp_path):
    begin(options(tmp_path, edit={"r_edit": 0.2}), "digest")
    before = json.loads((tmp_path / "run.json").read_text())
    now = options(tmp_path, steps=5, edit={"r_edit": 0.3}, micro_batch=2, save_every=7)
    with pytest.raises(ValueError, match=r"with steps=1, not 5; edit.r_edit=0.2, not 0.3: "):
        check_same(before, now, "digest")
    same = options(tmp_path, edit={"r_edit": 0.2}, micro_batch=2, save_every=7, device="cpu")
    check_same(before, same, "digest")
    with pytest.raises(ValueError, match="other data"):
        check_same(before, same, "another digest")


def test_every_resumption_is_told_of_other_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "version", lambda name: "1.0")
    begin(options(tmp_path), "digest")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    monkeypatch.setattr(folder, "version", lambda name: "2.0")
    for _ in range(2):
        before = run_to_go_on(tmp_path, True)
        with pytest.warns(UserWarning, match="fastedit-dlm, torch, .* changed since this run"):
            check_same(before, options(tmp_path), "digest")
        begin(options(tmp_path, save_every=7), "digest", before)


def test_without_an_installed_package_the_version_is_the_source(tmp_path, monkeypatch):
    def version(name):
        if name == "fastedit-dlm":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(folder, "version", version)
    begin(options(tmp_path), "digest")
    versions = json.loads((tmp_path / "run.json").read_text())["versions"]
    assert versions["fastedit-dlm"] == "source" and versions["torch"] == "1.0"


def test_options_newer_than_the_run_had_their_defaults(tmp_path):
    begin(options(tmp_path), "digest")
    before = json.loads((tmp_path / "run.json").read_text())
    del before["options"]["clip"], before["options"]["edit"]["turns"]
    check_same(before, options(tmp_path), "digest")
    with pytest.raises(ValueError, match=r"with clip=1.0, not 2.0; edit.turns=1, not 2: "):
        check_same(before, options(tmp_path, clip=2.0, edit={"turns": 2}), "digest")


def test_a_run_goes_on_from_its_own_last_checkpoint(tmp_path):
    output = tmp_path / "out"
    last = output / "checkpoint-4"
    for asked in (output, last, tmp_path / "out" / ".." / "out"):
        check_resumed(asked, output, last)
    for asked, known in ((output / "checkpoint-2", last), (tmp_path, last), (last, None)):
        with pytest.raises(ValueError, match=r"goes on in its own folder .*out"):
            check_resumed(asked, output, known)


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"RANK": "0"}, True), ({"RANK": "3"}, False), ({"PMI_RANK": "1"}, False)],
)
def test_the_first_process_is_told_by_its_launcher(monkeypatch, environment, first):
    for name in folder._RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert first_process() == first


def test_a_run_says_which_checkpoint_it_began_with(tmp_path):
    first = {"weights": "a", "tokenizer": "b", "adapter": ""}
    begin(options(tmp_path), "digest", model=first)
    before = json.loads((tmp_path / "run.json").read_text())
    assert before["checkpoint"] == "tiny" and before["model"] == first
    check_same(before, options(tmp_path, checkpoint="elsewhere"), "digest", first)
    with pytest.raises(
        ValueError, match="was trained from tiny, and now tiny has other tokenizer:"
    ):
        check_same(before, options(tmp_path), "digest", first | {"tokenizer": "c"})


def test_a_run_of_an_earlier_version_knew_a_name_alone(tmp_path):
    begin(options(tmp_path), "digest")
    before = json.loads((tmp_path / "run.json").read_text())
    before["options"]["checkpoint"] = before.pop("checkpoint")
    model = {"weights": "a", "tokenizer": "b", "adapter": ""}
    with pytest.warns(UserWarning, match="does not say what was in tiny"):
        check_same(before, options(tmp_path), "digest", model)
    with pytest.raises(ValueError, match="was trained with checkpoint=tiny, not other:"):
        check_same(before, options(tmp_path, checkpoint="other"), "digest", model)
