"""The commands on checkpoints of other families: one prompt, files, holes, tasks and adapters."""

from __future__ import annotations

import json

import pytest
from every_family import NAMES, copied, mask_of

from fastedit import Decoder

NEW = 6


# The engine's own tests go through all of them; here one of each attention, and one whose mask has
# to be named.
QUICK = ("llada", "sdar", "fast_dllm_v2")


@pytest.fixture(
    params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    return copied(name, tmp_path)


@pytest.fixture
def command(run, name, folder):
    """The command line on the checkpoint; the mask is named where no file of it does."""
    more = ["--mask-token-id", mask_of(name)] if name == "fast_dllm_v2" else []

    def run_it(verb, *arguments):
        return run(verb, *arguments, "--checkpoint", folder, "--device", "cpu", *more)

    return run_it


@pytest.fixture
def options(name):
    return {"mask_token_id": mask_of(name), "max_new_tokens": NEW}


def test_a_file_gives_what_each_prompt_gives_alone(command, folder, options, tmp_path):
    lines = [{"prompt": "one"}, {"prompt": "two", "steps": 3}, {"prompt": "three", "stop": "e"}]
    lines += [{"prompt": "four", "temperature": 1.0, "seed": 4}, {"prompt": "x", "max_tokens": 2}]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"

    def decode(lines):
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        asked = ("--input", source, "--output", target, "--max-new-tokens", NEW, "--raw")
        return command("generate", *asked)

    assert decode(lines)[0] == 0
    found = {record["index"]: record for record in map(json.loads, target.read_text().splitlines())}
    decoder = Decoder.from_pretrained(folder, device="cpu")
    for index, line in enumerate(lines):
        given = options | {key: value for key, value in line.items() if key != "prompt"}
        if "max_tokens" in given:
            del given["max_new_tokens"]
        out = decoder.generate(line["prompt"], **given)
        assert found[index]["text"] == out.texts[0]
        assert found[index]["stats"]["forwards"] == out.stats[0].forwards
    assert "nothing to do" in decode(lines)[2]
    lines[1]["steps"] = 2
    code, _, err = decode(lines)
    assert code == 2 and "other options" in err


def test_a_prompt_holes_and_a_task(command, folder, options, name):
    decoder = Decoder.from_pretrained(folder, device="cpu")
    whole = decoder.generate([[{"role": "user", "content": "hi"}]], **options)
    code, out, _ = command("generate", "hi", "--max-new-tokens", NEW, "--json")
    record = json.loads(out)
    assert code == 0 and record["text"] == whole.texts[0]
    assert record["stats"]["forwards"] == whole.stats[0].forwards
    code, out, err = command("generate", "hi", "--max-new-tokens", NEW, "--json", "--cache", "dual")
    if decoder.family.attention == "full":
        assert code == 0 and json.loads(out)["stats"]["approximate"]
    else:
        assert code == 2 and "this one is block-causal" in err
    code, out, err = command("fill", "one [MASK:3] two", "--live")
    frames = [line for line in out.splitlines() if line.startswith("forward ")]
    settings = {"keep_draft": True, "eos_token_id": [], "mask_token_id": mask_of(name)}
    events = decoder.stream("one ", True, draft="<|mask|>" * 3 + " two", **settings)
    assert code == 0 and out.endswith(" two\n") and err.startswith("░ mask")
    assert len(frames) == sum(event.kind == "draft" for event in events) and "░" in frames[0]
    code, out, _ = command("eval", "--n", 2, "--max-new-tokens", NEW, "--json")
    result = json.loads(out)
    assert code == 0 and result["n"] == 2 and result["failed"] == 0
    assert result["mode"] is None
    assert result["config"]["policy"].startswith("low_confidence")
    code, _, err = command("eval", "--n", 2, "--no-editing")
    assert code == 2 and "editing_threshold" in err and err.count("\n") == 1


def test_an_adapter_is_merged_when_it_is_loaded(command, folder, options, tmp_path):
    import torch

    peft = pytest.importorskip("peft")
    plain = Decoder.from_pretrained(folder, device="cpu")
    before = plain.generate("hello", **options).sequences[0].tolist()
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(plain.model, config)
    wrapped.save_pretrained(tmp_path / "adapter")
    unmerged = Decoder(wrapped, plain.tokenizer).generate("hello", **options).sequences[0]
    merged = Decoder.from_pretrained(folder, adapter=tmp_path / "adapter", device="cpu")
    out = merged.generate("hello", **options)
    assert out.sequences[0].equal(unmerged) and out.sequences[0].tolist() != before
    arguments = ("hello", "--raw", "--max-new-tokens", NEW, "--adapter", tmp_path / "adapter")
    code, shown, _ = command("generate", *arguments)
    assert code == 0 and shown == out.texts[0] + "\n"
