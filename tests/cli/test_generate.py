"""`fastedit generate PROMPT`: what is printed is what the Decoder returns."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from fastedit import policies

LENGTH = 40


@pytest.fixture
def generate(run, checkpoint):
    def generate(*arguments):
        return run("generate", "--checkpoint", checkpoint, "--max-new-tokens", LENGTH, *arguments)

    return generate


def answer(decoder, prompt, **options):
    return decoder.generate([prompt], max_new_tokens=LENGTH, **options)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_prompt_is_a_chat_message_unless_raw(generate, decoder):
    as_chat, raw = answer(decoder, chat("hello")), answer(decoder, "hello")
    assert as_chat.texts != raw.texts
    assert generate("hello")[:2] == (0, as_chat.texts[0] + "\n")
    assert generate("hello", "--raw")[:2] == (0, raw.texts[0] + "\n")


def test_dash_reads_standard_input(generate, decoder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert generate("-")[1] == answer(decoder, chat("two\nlines")).texts[0] + "\n"


def test_json_is_one_object_with_text_ids_and_stats(generate, decoder):
    code, out, err = generate("hello", "--json", "--seed", "7")
    expected = answer(decoder, chat("hello"), seed=7)
    assert code == 0 and "warning: --seed without --temperature above 0" in err
    assert json.loads(out) == {
        "text": expected.texts[0],
        "token_ids": expected.sequences[0].tolist(),
        "stats": expected.stats[0].as_dict(),
        **policies.JointThreshold().as_dict(),
    }


def test_json_names_the_policy_and_its_parameters(generate):
    record = json.loads(generate("hello", "--json", "--policy", "remask:tau=.2")[1])
    assert record["policy"] == "remask:tau=0.2"
    assert record["parameters"] == dataclasses.asdict(policies.Remask(tau=0.2))
    speed = json.loads(generate("hello", "--json", "--mode", "speed")[1])
    assert speed["parameters"]["editing_threshold"] == 0.0


def test_an_empty_answer_is_remarked_on(generate, monkeypatch):
    from fastedit import Decoder
    from fastedit.results import DecodeStats, Event

    end = Event("end", stats=DecodeStats())
    monkeypatch.setattr(Decoder, "stream", lambda *_, **__: iter([Event("commit"), end]))
    code, out, err = generate("hello")
    assert (code, out) == (0, "\n") and "the answer is empty" in err and "card" not in err
    assert "wordings in its card" in generate("hello", "--checkpoint", "tiny")[2]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--mode", "speed"], {"mode": "speed"}),
        (["--threshold", ".3", "--editing-threshold", "none"],
         {"threshold": 0.3, "editing_threshold": None}),
        (["--editing-threshold", "0"], {"editing_threshold": 0.0}),
        (["--block-length", "8"], {"block_length": 8}),
        (["--block-size=8", "--edit-threshold", "none"],
         {"block_length": 8, "editing_threshold": None}),
        (["--stop", "v", "--stop", "$"], {"stop": ["v", "$"]}),
        (["--temperature", "1", "--top-k", "5", "--top-p", ".9", "--seed", "3"],
         {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "seed": 3}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:temperature")
def test_options_reach_the_decoder(generate, decoder, arguments, options):
    _, out, _ = generate("hello", "--json", *arguments)
    expected = answer(decoder, chat("hello"), **options)
    assert json.loads(out)["token_ids"] == expected.sequences[0].tolist()


def test_an_option_under_two_names_is_refused(generate):
    code, _, err = generate("hello", "--block-size", "8", "--block-length", "4")
    assert code == 2 and "--block-size is --block-length: give one of them" in err


def test_a_warning_is_one_line_on_stderr(generate):
    _, _, err = generate("hello", "--temperature", "1", "--seed", "1")
    assert err.startswith("fastedit: warning: temperature > 0") and err.count("\n") == 1


def test_a_prompt_that_cannot_be_decoded(generate):
    code, out, err = generate("x" * 600)
    assert (code, out) == (2, "")
    assert "the model has 512" in err


@pytest.mark.parametrize(
    "command",
    ["generate a", "generate -i -", "fill [MASK]", "eval --n 2", "tune --task chain_sum",
     "eval errors --before"],
)  # fmt: skip
def test_without_a_tokenizer_no_command_can_read_a_text(
    run, checkpoint, tmp_path, command, monkeypatch
):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(checkpoint, name), tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}')))
    where = ["--after"] if "errors" in command else ["--checkpoint"]
    code, out, err = run(*command.split(), *([tmp_path] * ("errors" in command)), *where, tmp_path)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"{tmp_path} has no tokenizer: put tokenizer.json" in err


def test_bad_logits_are_exit_code_1(generate, monkeypatch):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    forward = LLaDA2MoeModelLM.forward

    def poisoned(self, *arguments, **options):
        output = forward(self, *arguments, **options)
        output.logits.fill_(float("nan"))
        return output

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", poisoned)
    code, _, err = generate("hello")
    assert code == 1
    assert err.startswith("fastedit: bad logits") and err.count("\n") == 1


def test_interrupt_is_exit_code_130(generate, monkeypatch):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", interrupted)
    code, _, err = generate("hello")
    assert (code, err.strip()) == (130, "fastedit: interrupted")


def test_a_policy_is_named_with_its_parameters(generate, decoder):
    text = "low_confidence:steps=4,rank=margin"
    want = answer(decoder, chat("hello"), policy=text)
    code, out, _ = generate("hello", "--policy", text, "--json")
    assert code == 0 and json.loads(out)["text"] == want.texts[0]
    assert json.loads(out)["stats"]["forwards"] == want.stats[0].forwards
    code, out, _ = generate(
        "hello", "--policy", "low_confidence:rank=margin", "--steps", 4, "--json"
    )
    assert json.loads(out)["text"] == want.texts[0]
    for wrong, words in (("remsk", "remask"), ("remask:tau", "tau=value")):
        code, _, err = generate("hello", "--policy", wrong)
        assert code == 2 and words in err
    code, _, err = generate("hello", "--policy", "remask", "--editing-threshold", 0.5)
    assert code == 2 and "editing_threshold" in err


def test_a_seed_is_of_use_to_a_rule_that_draws(generate):
    assert "no effect" not in generate("a", "--policy", "entropy_bound:steps=2", "--seed", 1)[2]
    assert "no effect" in generate("a", "--policy", "remask", "--seed", 1)[2]
