"""The base of the study of over-editing is a run with random T2T."""

import importlib
from pathlib import Path

from fastedit.training.runs.settings import RunOptions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_recipe_is_one_of_a_run(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    recipe = importlib.import_module("study_base").RECIPE
    options = RunOptions.from_mapping({"checkpoint": "tiny", "output": "unused", **recipe})
    assert (options.edit.t2t, options.lora_rank) == ("random", 0)
    tasks = [source.partition(",")[0] for source in options.data]
    assert tasks == ["task:word_sequence_reversal", "task:text_repair"]
