"""`fastedit eval` and `fastedit demo`: sums that add up, tables that can be read."""

from __future__ import annotations

import io
import json

import pytest
import torch

from fastedit.cli import demo
from fastedit.cli.report import comparison, result_lines
from fastedit.evaluation.accuracy import evaluate

pytest.importorskip("reasoning_gym")

from fastedit.tasks import get_task

OPTIONS = {"max_new_tokens": 24}


@pytest.fixture(scope="module")
def task():
    return get_task("chain_sum")


@pytest.fixture
def run_eval(run, checkpoint):
    return lambda *arguments: run(
        "eval", "--checkpoint", checkpoint, "--n", 3, "--max-new-tokens", 24, *arguments
    )


def test_json_has_the_promised_keys(run_eval, checkpoint):
    code, out, _ = run_eval("--json", "--no-editing", "--mode", "speed")
    result = json.loads(out)
    assert code == 0
    assert {"accuracy", "tokens_per_forward", "edits_per_100_tokens", "tokens_per_second"} <= set(
        result
    )
    assert result["n"] == 3 and result["task"] == "chain_sum" and result["mode"] == "speed"
    assert result["checkpoint"] == checkpoint and result["edits_per_100_tokens"] == 0.0
    assert result["config"]["editing_threshold"] is None and result["config"]["threshold"] == 0.5
    assert "threads" in result["hardware"]


def test_table(run_eval):
    code, out, _ = run_eval("--task", "leg_counting")
    assert code == 0
    for words in ("right answers", "95% Wilson interval", "partial credit", "tokens per forward"):
        assert words in out


@pytest.mark.parametrize("batch_size", [1, 3])
def test_failed_requests_are_counted_and_make_exit_code_1(run_eval, monkeypatch, batch_size):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    forward = LLaDA2MoeModelLM.forward

    def poisoned(self, *arguments, **options):
        output = forward(self, *arguments, **options)
        output.logits.fill_(float("nan"))
        return output

    monkeypatch.setattr(LLaDA2MoeModelLM, "forward", poisoned)
    code, out, _ = run_eval("--json", "--batch-size", batch_size)
    assert code == 1 and json.loads(out)["failed"] == 3


def test_comparison_fits_80_columns(decoder, task):
    from rich.console import Console

    result = evaluate(decoder, task, 1, **OPTIONS) | {"accuracy": 1.0, "interval": [0.98, 1.0]}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison({name: result for name, *_ in demo.RUNS}))
    table = console.export_text()
    assert "…" not in table and "100% (98-100%)" in table
    assert any(line.startswith("failed requests") for line in result_lines(result | {"failed": 1}))


@pytest.mark.parametrize("ends", [True, False])
def test_answers_that_were_cut_off_are_counted(decoder, task, monkeypatch, ends):
    from fastedit import Decoder

    as_completed = Decoder.as_completed

    def ended(self, prompts, **options):
        for result in as_completed(self, prompts, **options):
            result.stats.finish_reason = "eos" if ends or result.index == 0 else "length"
            yield result

    monkeypatch.setattr(Decoder, "as_completed", ended)
    result = evaluate(decoder, task, 3, **OPTIONS)
    assert result["truncated"] == (0 if ends else 2)
    lines = [line for line in result_lines(result) if line.startswith("cut off")]
    assert [line.split() for line in lines] == (
        [] if ends else [["cut", "off", "2", "of", "3,", "by", "max_new_tokens"]]
    )


def test_the_problems_shown_are_ones_that_the_embedded_checkpoint_edits():
    from fastedit import Decoder

    decoder = Decoder.from_pretrained("tiny", device="cpu")
    out = decoder.chat([question for question, _ in demo.SHOWN], mode="speed")
    assert all(stats.t2t_edits for stats in out.stats)


def test_demo_shows_problems_answers_and_a_table(run, checkpoint, monkeypatch):
    from fastedit import Decoder

    stream = Decoder.stream
    monkeypatch.setattr(Decoder, "stream", lambda *a, **more: stream(*a, **OPTIONS, **more))
    monkeypatch.setattr(demo, "SHOWN", (demo.SHOWN[0], demo.SHOWN[-1]))
    runs = tuple((name, task, 2, OPTIONS | options) for name, task, _, options in demo.RUNS)
    monkeypatch.setattr(demo, "RUNS", runs)
    code, out, _ = run("demo", "--checkpoint", checkpoint)
    assert code == 0
    assert "State the final answer" in out and "how many legs" in out
    assert out.count("✗ wrong, the answer is ") == 2
    for words in [*(name for name, *_ in demo.RUNS), "edits/100 tokens: how often"]:
        assert words in out


def test_the_policy_stands_in_the_result(run_eval):
    code, out, _ = run_eval("--json", "--policy", "remask:tau=0.2", "--threshold", 0.6)
    result = json.loads(out)
    assert code == 0 and result["mode"] is None
    assert result["config"]["policy"] == "remask:tau=0.2,threshold=0.6"
    assert result["config"]["threshold"] == 0.6 and result["config"]["editing_threshold"] is None
    assert result["policy"] == "remask:tau=0.2,threshold=0.6"
    assert result["parameters"]["tau"] == 0.2 and result["parameters"]["cap"] == 1


REMASK = "remask:trigger=t2t,tau=0.9"
ASKED = ("--policies", f"{REMASK},correction", "--policies", "multi_block:rounds=1")


def test_policies_stand_in_one_table(run_eval):
    code, out, _ = run_eval(*ASKED)
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    for words in ("right answers", "TPF", "forwards", "edits", "remasks", "trigger=t2t", "tau=0.9"):
        assert words in out
    assert "multi_block*:" in out and "* multi_block:rounds=1: for a model trained to" in out
    assert "not run: correction: policy correction needs the scores of a correction head" in out


def test_policies_are_one_object_with_rows(run_eval, checkpoint):
    code, out, _ = run_eval(*ASKED, "--json")
    result = json.loads(out)
    assert code == 0 and result["interrupted"] is False and result["checkpoint"] == checkpoint
    names = [REMASK, "correction", "multi_block:rounds=1"]
    assert [row["policy"] for row in result["rows"]] == names
    first, second, third = result["rows"]
    assert first["parameters"]["cap"] == 1 and first["n"] == 3 and first["needs_training"] is None
    assert "reason" in second and "accuracy" not in second
    assert third["needs_training"] and third["block_forwards"] >= third["forwards"] > 0


def test_an_interrupted_comparison_keeps_its_rows(run_eval, monkeypatch):
    from fastedit import Decoder

    as_completed = Decoder.as_completed

    def interrupted(self, prompts, **options):
        if str(options["policy"]) == "saber":
            raise KeyboardInterrupt
        return as_completed(self, prompts, **options)

    monkeypatch.setattr(Decoder, "as_completed", interrupted)
    code, out, err = run_eval("--policies", "confidence,saber,wino", "--json")
    result = json.loads(out)
    assert code == 130 and "interrupted: 1 of 3 policies are done" in err
    assert result["interrupted"] is True
    assert [row["policy"] for row in result["rows"]] == ["confidence"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policies", "winno"], "policy must be one of"),
        (["--policies", ""], "no policy is named"),
        (["--policies", "all", "--policy", "wino"], "--policy is of one policy"),
        (["--policies", "all", "--mode", "speed"], "--mode is of one policy"),
        (["--policies", "all", "--threshold", 0], "--threshold is of one policy"),
        (["--policies", "all", "--no-editing"], "--no-editing is of one policy"),
        (["--policies", "all", "--max-new-tokens", 10**6], "beyond the model's"),
    ],
)
def test_what_does_not_go_with_policies_is_one_line(run_eval, arguments, words):
    code, out, err = run_eval(*arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert words in err or "max_new_tokens" in err


def test_nothing_that_could_run_is_exit_code_1(run_eval):
    code, out, _ = run_eval("--policies", "correction")
    assert code == 1 and "not run: correction" in out


GRID = ("--grid", "threshold=.3,.9")


@pytest.fixture
def questions(tmp_path):
    """Sums of the embedded checkpoint's task as a file, whose answers are whole solutions."""
    lines = [
        {"prompt": p.question, "gold": p.solution, "id": n, "completion": "not read"}
        for n, p in enumerate(get_task("chain_sum").test_set(4))
    ]
    lines[3] = {"messages": [{"role": "user", "content": lines[3]["prompt"]}], "gold": "no sum"}
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def adapter(tmp_path):
    """An adapter that spoils every answer."""
    peft = pytest.importorskip("peft")
    from fastedit import Decoder

    model, generator = Decoder.from_pretrained("tiny", device="cpu").model, torch.Generator()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data += 5.0 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


@pytest.fixture
def ask(run, questions):
    own = ("--data", questions, "--answer-field", "gold", "--device", "cpu")
    return lambda *arguments: run("eval", *own, "--max-new-tokens", 64, *arguments)


def test_questions_of_a_file_are_scored(ask, questions):
    code, out, _ = ask("--json")
    result = json.loads(out)
    assert code == 0 and (result["n"], result["exact"], result["unscored"]) == (4, 3, 0)
    assert (result["data"], result["scorer"]) == (str(questions), "exact")
    assert "task" not in result
    code, out, _ = ask("--n", 3)
    assert code == 0 and "100.0%  (3 of 3; 95% Wilson interval 43.9% - 100.0%)" in out
    assert "3 questions, scorer exact" in out and "would call" not in out


def test_a_scorer_that_suits_the_answers_better_is_named(ask, questions, tmp_path):
    lines = [json.loads(line) for line in questions.read_text().splitlines()][:3]
    whole = [line["gold"] for line in lines]

    def asked(golds):
        for line, gold in zip(lines, golds, strict=True):
            line["gold"] = gold
        questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
        code, out, _ = ask("--output", tmp_path / "out")
        assert code == 0 and "(0 of 3;" in out
        return out.partition("--scorer ")[2].partition("\n")[0]

    last = [int(gold.rsplit("####")[-1]) for gold in whole]
    assert asked(last) == "number would call 3 of the 3 answers right, not 0"
    assert (
        asked(whole[i][:9] for i in range(3))
        == "contains would call 3 of the 3 answers right, not 0"
    )
    assert asked(["yes", "no", "7e4417093384417093384f"]) == ""  # a number beyond what there is


def test_a_grid_before_and_after_an_adapter_goes_on_where_it_stopped(
    ask, adapter, tmp_path, monkeypatch
):
    pytest.importorskip("matplotlib")
    from fastedit import Decoder

    folder, options = tmp_path / "out", (*GRID, "--adapter", adapter, "--baseline")
    as_completed, left = Decoder.as_completed, iter(range(9))

    def interrupted(self, *arguments, **more):
        for result in as_completed(self, *arguments, **more):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "as_completed", interrupted)
        code, out, err = ask(*options, "--output", folder, "--json")
    # One answer of each setting is decoded twice, the first time untimed.
    assert code == 130 and len(json.loads(out)["rows"]) == 1
    assert f"1 of 4 settings are done; 7 answers are in {folder}, and the same" in err
    code, out, _ = ask(*options, "--output", folder)
    assert code == 0 and all(len(line) <= 80 for line in out.splitlines()[:9])
    assert out.count("75% (30-95%)") == 2 and out.count("0% (0-49%)") == 2
    assert "wrong->right 0, right->wrong 3, McNemar p 0.25" in " ".join(out.split())
    report = json.loads((folder / "report.json").read_text())
    models = [row["model"] for row in report["rows"]]
    assert models == ["before", "before", "after", "after"] and not report["interrupted"]
    assert [row["parameters"]["threshold"] for row in report["rows"]] == [0.3, 0.9, 0.3, 0.9]
    assert [pair["right_to_wrong"] for pair in report["paired"]] == [3, 3]
    assert (folder / "accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "accuracy.svg").read_text()
    monkeypatch.setattr(Decoder, "as_completed", None)  # all of it has been measured
    code, out, _ = ask(*options, "--output", folder, "--json")
    assert code == 0 and json.loads(out) == report
    assert ask(*options, "--scorer", "contains", "--output", folder)[0] == 0  # scored again
    code, _, err = ask(*options, "--output", folder, "--raw")
    assert code == 2 and f"{folder} was evaluated with another data set: give" in err


def test_answers_that_a_scorer_fails_on_are_counted_and_named(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "late_scorer.py").write_text(
        "calls = []\n"
        "def late(text, answer):\n"
        "    calls.append(text)\n"
        "    return text == answer if len(calls) <= 8 else 1 / 0\n"
        "def never(text, answer):\n    return 'no'\n"
    )
    code, out, err = ask("--scorer", "python:late_scorer:late", "--json")
    result = json.loads(out)
    assert code == 1 and result["unscored"] == 4 and result["exact"] == 0
    assert err.count("\n") == 1 and "4 answers could not be scored and count as wrong: " in err
    assert "questions.jsonl:1: python:late_scorer:late raised ZeroDivisionError" in err
    monkeypatch.setattr("fastedit.cli.evaluate.load_decoder", None)
    code, out, err = ask("--scorer", "python:late_scorer:never")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "questions.jsonl:1: python:late_scorer:never must return True or False" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--answer-field", "answer"), "questions.jsonl:1: has no `answer`, the expected answer"),
        (("--scorer", "best"), "exact, contains, number; got 'best'"),
        (("--scorer", "python:nowhere_at_all:f"), "there is no module 'nowhere_at_all'"),
        (("--baseline",), "--baseline is the checkpoint without its adapter: pass --adapter"),
        (("--grid", "thresh=.5"), "joint_threshold has no 'thresh'"),
        ((*GRID, "--threshold", 0.5), "threshold is given twice"),
        ((*GRID, "--policies", "wino"), "--policies and --grid exclude each other"),
        (("--task", "chain_sum"), "--task and --data exclude each other"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--max-new-tokens", 10**6), "no question can be decoded: "),
    ],
)
def test_mistakes_with_questions_are_named(ask, arguments, words):
    code, out, err = ask(*arguments)
    assert code == 2 and out == "" and words in err


def test_options_of_a_file_need_one(run):
    for option in ("--scorer", "--answer-field", "--on-bad-line"):
        code, _, err = run("eval", option, "x")
        assert code == 2 and f"{option} goes with --data" in err
