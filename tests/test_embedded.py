"""The embedded checkpoint keeps what its card says."""

import pytest

from fastedit import Decoder
from fastedit.evaluation.accuracy import evaluate
from fastedit.models.load import TINY
from fastedit.tasks import get_task

PROBLEMS = 100


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.from_pretrained("tiny")


@pytest.fixture(scope="module")
def chain_sum(decoder) -> dict[str, dict]:
    runs = {"quality": {"mode": "quality"}, "speed": {"mode": "speed"}}
    task = get_task("chain_sum")
    return {name: evaluate(decoder, task, PROBLEMS, **options) for name, options in runs.items()}


def test_it_fits_in_12_megabytes_and_holds_no_code():
    files = [path for path in TINY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja", ".md"}


def test_it_is_a_mixture_of_experts_in_fp32(decoder):
    assert decoder.model.config.model_type == "llada2_moe"
    assert decoder.model.config.num_experts > decoder.model.config.num_experts_per_tok
    assert {str(p.dtype) for p in decoder.model.parameters()} == {"torch.float32"}


def test_quality_mode_is_right_at_least_85_times_in_100(chain_sum):
    assert chain_sum["quality"]["accuracy"] >= 0.85


def test_speed_mode_commits_more_than_two_tokens_per_forward(chain_sum):
    assert chain_sum["speed"]["tokens_per_forward"] > 2.0
    assert chain_sum["speed"]["accuracy"] >= 0.8


def test_it_answers_a_bare_question_too(decoder):
    task = get_task("chain_sum")
    problems = task.test_set(PROBLEMS)
    out = decoder.generate([problem.question for problem in problems])
    scores = zip(out.texts, problems, strict=True)
    assert sum(task.score(text, problem).exact for text, problem in scores) >= 0.8 * PROBLEMS
