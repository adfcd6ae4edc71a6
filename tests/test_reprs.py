"""What is shown of a Decoder, a config and results: a few lines that say what matters."""

import torch
from cases import scripted

from fastedit import DecodeConfig, Decoder, policies
from fastedit.models.families import Family
from fastedit.results import DecodeOutput, DecodeStats, RefusedError, Result

STATS = DecodeStats(forwards=4, tokens=29, t2t_edits=2, finish_reason="eos")


def test_a_config_shows_what_was_given():
    assert repr(DecodeConfig()) == "DecodeConfig(policy=<the family's>, max_new_tokens=256)"
    speed = repr(DecodeConfig.speed(max_tokens=64))
    assert "max_new_tokens=64" in speed and "threshold=0.5, editing_threshold=0.0" in speed
    remask = DecodeConfig(policy=policies.Remask(tau=0.5), seed=1)
    assert repr(remask) == "DecodeConfig(policy='remask:tau=0.5', max_new_tokens=256, seed=1)"


def test_a_decoder_shows_its_model_its_rule_and_its_config():
    shown = repr(Decoder.from_pretrained("tiny", DecodeConfig.speed()))
    assert "LLaDA2MoeModelLM of 1,8" in shown and "parameters in float32 on cpu" in shown
    assert "texts and chats" in shown and "JointThreshold(threshold=0.5," in shown
    assert len(shown.splitlines()) <= 6 and max(map(len, shown.splitlines())) <= 100
    shown = repr(Decoder(scripted()))
    assert "no tokenizer" in shown and "parameters" not in shown
    wrong = Decoder(scripted(), config=DecodeConfig(steps=3, threshold=0.5))
    wrong.family = Family(policy="remask")
    assert "DecodeConfig" in repr(wrong)


def test_results_show_texts_and_counts_and_no_tensors():
    ids = torch.arange(29)
    assert repr(STATS) == (
        "DecodeStats(29 tokens in 4 forwards (7.25 per forward), 2 edits, finish_reason='eos')"
    )
    line = repr(Result(3, ids, "27\n" * 60, STATS, None))
    assert line.startswith("Result(3: '27\\n27") and "7.25 per forward" in line
    assert len(line) < 200 and "\n" not in line
    assert "Result(0: [0, 1, 2" in repr(Result(0, ids, None, STATS, None))
    refused = RefusedError(1, "prompt 1 is empty")
    out = DecodeOutput([ids] * 7, ["a"] * 7, [STATS] * 7, [None, refused] + [None] * 5)
    lines = repr(out).splitlines()
    assert len(lines) == 7 and lines[0] == "DecodeOutput(7 results:"
    assert lines[2].endswith("RefusedError: prompt 1 is empty")
    assert lines[-1] == "  ... and 2 more)"
    assert repr(DecodeOutput([], None, [], [])) == "DecodeOutput(0 results)"
