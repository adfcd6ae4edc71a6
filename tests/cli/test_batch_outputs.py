"""`fastedit generate --output`: which results a run goes on with, and which it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from batch_files import LENGTH, alone, in_order, requests

from fastedit import Decoder


@pytest.mark.parametrize(
    ("line", "arguments", "words"),
    [
        ({"prompt": "number 2"}, (), "another prompt;"),
        ({"mode": "speed"}, (), "other options;"),
        ({}, ("--raw",), "another prompt;"),
        ({}, ("--threshold", 0.9), "other options;"),
        ({}, ("--dtype", "float32"), "another model;"),
    ],
)
def test_results_of_other_requests_are_refused(decode, tmp_path, line, arguments, words):
    decode(requests(2))
    before = (tmp_path / "g.jsonl").read_bytes()
    code, err = decode([requests(1)[0], requests(2)[1] | line, *requests(3)[2:]], *arguments)
    number = 1 if arguments else 2
    assert code == 2 and f"g.jsonl:{number}: index {number - 1} (line {number} of" in err
    assert words in err and "choose another --output" in err
    assert (tmp_path / "g.jsonl").read_bytes() == before


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A checkpoint of its own, to change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def of_model(decode, folder, *arguments):
    return decode(requests(2), "--checkpoint", folder, *arguments)


def another_weight(folder: Path) -> None:
    """As retraining does: same name, size and time."""
    [file] = folder.glob("*.safetensors")
    times = file.stat()
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "weights": another_weight,
    "weights, by config.json": lambda folder: edit_json(folder / "config.json", rope_theta=7.0),
    "weights, by generation_config.json": lambda folder: edit_json(
        folder / "generation_config.json", eos_token_id=[3]
    ),
    "tokenizer": lambda folder: edit_json(folder / "tokenizer_config.json", note="changed"),
    "tokenizer, by its template": lambda folder: append(folder / "chat_template.jinja", "{# #}"),
}


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changed_in_its_folder_is_another_one(decode, copied, tmp_path, change):
    assert of_model(decode, copied)[0] == 0
    before = (tmp_path / "g.jsonl").read_bytes()
    CHANGES[change](copied)
    code, err = of_model(decode, copied)
    part = change.partition(",")[0]
    assert code == 2 and f"was made from another model; other {part}; choose another" in err
    assert (tmp_path / "g.jsonl").read_bytes() == before


def test_a_model_is_the_same_wherever_it_lies_and_whatever_lies_beside_it(decode, copied, tmp_path):
    assert of_model(decode, copied)[0] == 0
    moved = copied.rename(tmp_path / "moved")
    (moved / "README.md").write_text("a card")
    (moved / "trainer_state.json").write_text("{}")
    (moved / "config.json").touch()
    code, err = of_model(decode, moved)
    assert code == 0 and "nothing to do" in err
    (tmp_path / "here").symlink_to(moved)
    assert "nothing to do" in of_model(decode, tmp_path / "here")[1]


def test_an_adapter_that_was_trained_again_is_another_one(decode, copied, tmp_path, adapter):
    assert of_model(decode, copied, "--adapter", adapter)[0] == 0
    elsewhere = Path(shutil.copytree(adapter, tmp_path / "elsewhere"))
    assert "nothing to do" in of_model(decode, copied, "--adapter", elsewhere)[1]
    another_weight(elsewhere)
    code, err = of_model(decode, copied, "--adapter", elsewhere)
    assert code == 2 and "another model; other adapter; " in err
    code, err = of_model(decode, copied)
    assert code == 2 and "another model; other adapter; " in err


@pytest.fixture
def adapter(copied, tmp_path):
    peft = pytest.importorskip("peft")
    from fastedit.models.load import load

    model, _ = load(copied, None, "auto", "cpu", None)
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["dense"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_results_that_know_a_model_by_its_path_are_refused(decode, results, tmp_path):
    decode(requests(2))
    lines = results()
    for line in lines:
        line["made_from"] = line["made_from"][: 8 + 1 + 8 + 1 + 8]
    output = tmp_path / "g.jsonl"
    output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, err = decode(requests(2))
    assert code == 2 and err.count("\n") == 1
    assert "g.jsonl:1: was written by an earlier fastedit, which knew a model by its path" in err


IDS = [1, "1", 1.0, True, None, False, 0, "null", "", [1], {"a": 1, "b": 2}, 1e100, "true"]


def test_ids_of_different_types_are_different_ids(decode, results, tmp_path):
    lines = [{"prompt": "a", "id": name, "max_new_tokens": 1} for name in IDS]
    assert decode(lines)[0] == 0
    found = [record["id"] for record in in_order(results())]
    assert [json.dumps(name) for name in found] == [json.dumps(name) for name in IDS]
    code, err = decode(lines)
    assert code == 0 and "nothing to do" in err
    for place, other in ((0, 1.0), (0, "1"), (0, True), (2, 1), (3, 1), (4, "null"), (6, False)):
        changed = [dict(line) for line in lines]
        for line in changed:
            line["id"] = f"other {line['id']!r}"
        changed[place]["id"] = other
        record = in_order(results())[place]
        (tmp_path / "one.jsonl").write_text(json.dumps(record) + "\n")
        code, err = decode(changed, "--output", tmp_path / "one.jsonl")
        assert code == 2 and "belongs to another input" in err


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "1e999", "[NaN]", '{"a": NaN}'])
def test_an_id_that_equals_nothing_is_refused(decode, tmp_path, name):
    code, err = decode([{"prompt": "fine"}, '{"prompt": "a", "id": ' + name + "}"])
    assert code == 2 and "f.jsonl:2: " in err and err.count("\n") == 1
    assert not (tmp_path / "g.jsonl").exists()


@pytest.mark.parametrize("name", ["a", 0, 1.5, True, [1], {"b": 1, "a": 2}])
def test_an_id_that_two_lines_have_is_refused(decode, tmp_path, name):
    lines = [{"prompt": "a", "id": name}, {"prompt": "c"}, {"prompt": "b", "id": name}]
    code, err = decode(lines)
    assert code == 2 and "f.jsonl:3: `id` " in err and "is that of line 1 too" in err
    assert not (tmp_path / "g.jsonl").exists()


def test_an_index_that_is_there_twice_is_refused(decode, tmp_path):
    decode(requests(2))
    output = tmp_path / "g.jsonl"
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join([*lines, lines[0]]))
    code, err = decode(requests(2))
    assert code == 2 and "g.jsonl:3: index " in err and "is there twice" in err


def test_results_that_do_not_say_their_origin_are_kept_with_a_warning(decode, tmp_path):
    old = '{"index": 0, "id": "r0", "text": "kept"}\n'
    (tmp_path / "g.jsonl").write_text(old)
    code, err = decode(requests(2))
    assert code == 0 and "1 lines of" in err and "do not say what they were made from" in err
    assert (tmp_path / "g.jsonl").read_text().startswith(old)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"index": 7, "id": null, "text": ""}\n',
            "g.jsonl:1: index 7 is outside the input's 0..1",
        ),
        ('{"index": 0, "id": "other", "text": ""}\n', "g.jsonl:1: id 'other' where the input has"),
        ('{"index": 0, "id": "r0"}\n', "g.jsonl:1: is no line of results"),
        ("notes\n", "g.jsonl:1: is no line of results"),
        ("notes", "g.jsonl:1: is no line of results"),
    ],
)
def test_a_foreign_output_is_refused_and_left_alone(decode, tmp_path, content, words):
    (tmp_path / "g.jsonl").write_text(content)
    code, err = decode(requests(2))
    assert code == 2 and words in err
    assert (tmp_path / "g.jsonl").read_text() == content


def test_input_as_output_is_refused(run, checkpoint, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "a"}\n')
    code, _, err = run("generate", "--checkpoint", checkpoint, "--input", path, "--output", path)
    assert code == 2 and "overwrite the input" in err
    assert path.read_text() == '{"prompt": "a"}\n'


def test_a_folder_as_output_is_refused(run, checkpoint, tmp_path):
    (tmp_path / "f.jsonl").write_text('{"prompt": "a"}\n')
    code, _, err = run("generate", "--input", tmp_path / "f.jsonl", "--output", tmp_path)
    assert code == 2 and f"--output {tmp_path} is a folder" in err


def test_without_output_results_go_to_stdout(run, checkpoint, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    code, out, _ = run(
        "generate", "--checkpoint", checkpoint, "--max-new-tokens", 4, "--input", path
    )
    assert code == 0
    assert [json.loads(line)["index"] for line in out.splitlines()] == [0, 1]


@pytest.mark.parametrize("neighbours", [True, False])
def test_a_failed_request_gets_an_error_and_the_others_their_text(
    decode, results, decoder, monkeypatch, neighbours
):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    poison, forward = decoder.tokenizer("~")["input_ids"][0], LLaDA2MoeModelLM.forward

    def poisoned(self, input_ids=None, **options):
        output = forward(self, input_ids=input_ids, **options)
        output.logits[(input_ids == poison).any(1)] = float("nan")
        return output

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", poisoned)
    lines = requests(3) if neighbours else []
    lines.insert(1, {"prompt": "~", "id": "bad"})
    code, err = decode(lines, "--raw")
    assert code == 1 and "1 of them failed" in err
    by_id = {record["id"]: record for record in results()}
    assert len(by_id) == len(lines)
    assert by_id["bad"]["error"].startswith("bad logits") and "text" not in by_id["bad"]
    assert all("text" in record for name, record in by_id.items() if name != "bad")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_traceback(run, checkpoint, tmp_path):
    (tmp_path / "f.jsonl").write_text('{"prompt": "a"}\n')
    code, _, err = run(
        "generate", "--checkpoint", checkpoint, "--max-new-tokens", LENGTH,
        "--input", tmp_path / "f.jsonl", "--output", "/dev/full",
    )  # fmt: skip
    assert code == 2 and "cannot write /dev/full: No space left on device; 0 of 1 results" in err


def test_a_file_that_the_model_may_not_open_is_not_the_output(decode, monkeypatch):
    def forbidden(self, prompts, **options):
        raise PermissionError(13, "Permission denied", "/root/.triton/cache")
        yield

    monkeypatch.setattr(Decoder, "as_completed", forbidden)
    with pytest.raises(PermissionError, match=r"/root/\.triton/cache"):
        decode(requests(1))


def test_a_block_length_of_ones_own_is_another_option_than_the_models():
    from fastedit import DecodeConfig
    from fastedit.cli.made_from import made_from
    from fastedit.cli.requests import Row

    row = Row(0, 1, None, "1 + 1 =")
    origins = [
        made_from(row, DecodeConfig(**k), False, "m", "wino") for k in ({}, {"block_length": 32})
    ]
    assert origins[0] != origins[1]


def test_lines_have_policies_of_their_own_and_a_rerun_is_under_the_same(decode, results, decoder):
    policies = ["joint_threshold", "remask:tau=0.4", "low_confidence", "remask", "low_confidence"]
    lines = [{"prompt": f"number {i}", "policy": p} for i, p in enumerate(policies)]
    lines[4]["threshold"] = 0.5
    assert decode(lines)[0] == 0
    records = in_order(results())
    for line, record in zip(lines, records, strict=True):
        prompt = line.pop("prompt")
        text, stats = alone(decoder, prompt, **line)
        assert record["text"] == text and record["stats"] | {"seed": 0} == stats | {"seed": 0}
        line["prompt"] = prompt
    assert decode(lines)[0] == 0 and in_order(results()) == records
    # The same numbers under another rule, or left to the rule's own default, are another run.
    del lines[4]["threshold"]
    code, err = decode(lines)
    assert code == 2 and "other options" in err
