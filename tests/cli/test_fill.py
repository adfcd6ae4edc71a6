"""`fastedit fill TEXT`: holes are filled as the Decoder fills them, and the rest stays."""

from __future__ import annotations

import io
import json
import sys

import pytest

from fastedit.policies import JointThreshold

MASK = "<|mask|>"


@pytest.fixture
def fill(run, checkpoint):
    return lambda *arguments: run("fill", "--checkpoint", checkpoint, *arguments)


def filled(decoder, prompt, draft, **options):
    options = {"eos_token_id": [], "keep_draft": True} | options
    return decoder.generate(prompt, draft=draft, **options)


def test_the_text_comes_back_with_its_holes_filled(fill, decoder):
    want = filled(decoder, "one ", f"{MASK * 3} two {MASK} three")
    code, out, err = fill("one [MASK:3] two [MASK] three")
    assert (code, out, err) == (0, f"one {want.texts[0]}\n", "")
    assert " two " in out and out.endswith(" three\n") and MASK not in out
    assert fill(f"one {MASK * 3} two {MASK} three")[:2] == (0, out)
    assert fill("one [mask:3] two [Mask] three")[:2] == (0, out)
    assert fill("[MASK:3] two")[1] == filled(decoder, "", f"{MASK * 3} two").texts[0] + "\n"


def test_json_has_all_of_the_text_and_the_ids_behind_the_prompt(fill, decoder):
    want = filled(decoder, "one ", f"{MASK * 3} two", seed=7)
    code, out, _ = fill("one [MASK:3] two", "--json", "--seed", 7)
    assert code == 0
    assert json.loads(out) == {
        "text": "one " + want.texts[0],
        "token_ids": want.sequences[0].tolist(),
        "stats": want.stats[0].as_dict(),
        **JointThreshold().as_dict(),
    }


def test_dash_reads_standard_input(fill, decoder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n[MASK:2]\ntwo\n"))
    assert fill("-")[1] == "one\n" + filled(decoder, "one\n", f"{MASK * 2}\ntwo").texts[0] + "\n"


def test_bytes_that_are_no_utf8_are_named_where_they_stand(fill, monkeypatch):
    content = io.BytesIO("é\r\n[MASK] ".encode() + "é".encode("latin1"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content, encoding="ascii"))
    code, out, err = fill("-")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "standard input is not valid UTF-8 text: byte 0xe9 at offset 11; write it as" in err


def test_the_canvas_is_shown_and_then_the_whole_text(fill, decoder):
    code, out, _ = fill("one [MASK:3] two", "--live")
    want = filled(decoder, "one ", f"{MASK * 3} two")
    text = want.texts[0].replace("\x07", "")  # bells are not rung
    assert code == 0 and out.endswith(f"\none {text}\n")
    frames = [line for line in out.splitlines() if line.startswith("forward ")]
    assert len(frames) == want.stats[0].forwards
    # Nothing behind the end, which the block goes on after.
    tokens = decoder.tokenizer(" two", add_special_tokens=False)["input_ids"]
    assert all(f"tokens {3 + len(tokens):3} " in line for line in frames[-1:])
    assert frames[-1].endswith(" two")


def test_an_end_cuts_nothing_off_that_is_kept(fill, decoder):
    ids = filled(decoder, "one ", f"{MASK * 3} two").sequences[0].tolist()
    arguments = ("--mask-token-id", decoder.tokenizer.mask_token_id, "--json")
    kept = json.loads(fill("one [MASK:3] two", *arguments)[1])
    assert kept["token_ids"] == ids and kept["stats"]["finish_reason"] == "length"
    cut = json.loads(fill("one [MASK:3] two", *arguments, "--eos-token-id", ids[1])[1])
    assert cut["token_ids"] == ids[: ids.index(ids[1]) + 1]
    assert cut["stats"]["finish_reason"] == "eos"


def test_an_open_end_is_ended_by_the_model(fill):
    # The embedded model ends a text of this kind at once.
    answer = json.loads(fill("27 + 45 = [MASK:4]", "--checkpoint", "tiny", "--json")[1])
    assert answer["stats"]["finish_reason"] == "eos" and len(answer["token_ids"]) == 1


def test_the_embedded_model_fills_what_it_knows(fill):
    ask = "State the final answer to the following arithmetic problem: 27 + 45 ="
    chat = f"<role>HUMAN</role>{ask}<|role_end|><role>ASSISTANT</role>"
    code, out, _ = fill(chat + "+[MASK:2] = 527\n+45 = [MASK:3]\n#### +072", "--checkpoint", "tiny")
    assert (code, out) == (0, chat + "+27 = 527\n+45 = 572\n#### +072\n")


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--policy", "low_confidence:steps=4"], {"policy": "low_confidence:steps=4"}),
        (["--threshold", ".3", "--editing-threshold", "none", "--block-length", "8"],
         {"threshold": 0.3, "editing_threshold": None, "block_length": 8}),
        (["--temperature", "1", "--seed", "3"], {"temperature": 1.0, "seed": 3}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:temperature")
def test_options_reach_the_decoder(fill, decoder, arguments, options):
    _, out, _ = fill("one [MASK:9] two", "--json", *arguments)
    want = filled(decoder, "one ", f"{MASK * 9} two", **options)
    assert json.loads(out)["token_ids"] == want.sequences[0].tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no hole"], "the text has no hole: write [MASK:8]"),
        ([""], "the text has no hole"),
        (["a [MASK:x]"], "[MASK:x] is no hole"),
        (["a [MASK:600] b"], "the model has 512"),
        (["[MASK]", "--json", "--live"], "--json and --live exclude each other"),
        (["[MASK]", "--input", "file"], "--input file: fill takes one TEXT, - reads"),
        (["[MASK]", "--max-new-tokens", "8"], "the holes say how many tokens"),
        (["one \udcff[MASK]"], "the text is not valid UTF-8 text: byte 0xff at offset 4; write"),
        (["[MASK]", "--policy", "remsk"], "policy must be one of"),
        (["[MASK]", "--checkpoint", "nowhere/at/all"], "nowhere/at/all"),
        (["[MASK]", "--mask-token-id", "9999"], "mask_token_id=9999"),
    ],
)
def test_what_cannot_be_filled_is_one_line_and_exit_code_2(fill, arguments, words):
    code, out, err = fill(*arguments)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_bad_logits_are_exit_code_1(fill, monkeypatch):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    forward = LLaDA2MoeModelLM.forward

    def poisoned(self, *arguments, **options):
        output = forward(self, *arguments, **options)
        output.logits.fill_(float("nan"))
        return output

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", poisoned)
    code, _, err = fill("one [MASK:2] two")
    assert code == 1 and err.startswith("fastedit: bad logits") and err.count("\n") == 1
