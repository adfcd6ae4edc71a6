"""`--head FOLDER`: a correction head for policies that need one, and what `info` says of it."""

from __future__ import annotations

import json

import pytest
from spread_head import spread_head

OFTEN = "correction:tau=.5,stride=1,steps=8"


@pytest.fixture
def head(decoder, tmp_path):
    folder = tmp_path / "head"
    spread_head(decoder.model.config).save_pretrained(folder)
    return folder


def test_generate_decodes_with_it(run, checkpoint, head):
    arguments = ("generate", "hello", "--checkpoint", checkpoint, "--max-new-tokens", 24)
    arguments += ("--policy", OFTEN, "--eos-token-id", 99, "--json")
    code, out, _ = run(*arguments, "--head", head)
    assert code == 0 and json.loads(out)["stats"]["remasks"] > 0
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and "--head" in err and "scorer=confidence" in err
    plain = ("generate", "hello", "--checkpoint", checkpoint, "--max-new-tokens", 8)
    code, _, err = run(*plain, "--head", head)
    assert code == 0 and "policy joint_threshold does not read --head" in " ".join(err.split())
    code, out, err = run(*arguments, "--head", head.parent)
    assert (code, out) == (2, "") and "has no correction_head.json" in " ".join(err.split())
    (head / "correction_head.safetensors").write_bytes(b"x")
    code, out, err = run(*arguments, "--head", head)
    assert (code, out) == (2, "") and "damaged" in " ".join(err.split())


def test_a_file_of_results_is_of_one_head(run, checkpoint, head, decoder, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "hello"}\n')
    arguments = ("generate", "-i", source, "-o", target, "--checkpoint", checkpoint)
    arguments += ("--max-new-tokens", 8, "--policy", "correction:steps=4")
    assert run(*arguments, "--head", head)[0] == 0
    assert run(*arguments, "--head", head)[0] == 0
    other = spread_head(decoder.model.config, depth=1)
    other.save_pretrained(head)
    for changed in ((*arguments, "--head", head), arguments):
        code, _, err = run(*changed)
        assert code == 2 and "another model; other head" in " ".join(err.split())


def test_eval_scores_with_it(run, checkpoint, head):
    arguments = ("eval", "--n", 1, "--max-new-tokens", 8, "--checkpoint", checkpoint, "--json")
    code, out, _ = run(*arguments, "--policy", "correction:steps=4", "--head", head)
    found = json.loads(out)
    assert code == 0 and found["n"] == 1 and found["head"] == str(head)
    code, out, _ = run(*arguments, "--policies", "correction:steps=4", "--head", head)
    assert code == 0 and not any("reason" in row for row in json.loads(out)["rows"])


def test_info_names_the_head_of_a_checkpoint(run, checkpoint, head, tmp_path):
    import shutil

    both = tmp_path / "both"
    shutil.copytree(checkpoint, both)
    for file in head.iterdir():
        shutil.copy(file, both)
    code, out, _ = run("info", both)
    assert code == 0 and "correction head" in out and "2 blocks of width" in out
    assert json.loads(run("info", both, "--json")[1])["head"]["layer"] == -2
    assert "correction head" not in run("info", checkpoint)[1]
