"""The base of the study of over-editing: its random wrong tokens are digits."""

import importlib.util
from pathlib import Path

import pytest
import torch

from fastedit.models.load import load
from fastedit.training.options import EditOptions
from fastedit.training.runs.settings import RunOptions
from fastedit.training.step import EditStep

FILE = Path(__file__).parents[2] / "benchmarks" / "study_base.py"


def module():
    spec = importlib.util.spec_from_file_location("study_base", FILE)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_wrong_tokens_are_digits_and_the_recipe_is_one_of_a_run():
    study_base = module()
    recipe = {"checkpoint": "tiny", "output": "unused", **study_base.RECIPE}
    with pytest.warns(UserWarning, match="lambda_keep=0"):
        options = RunOptions.from_mapping(recipe).edit
    assert isinstance(options, EditOptions) and options.t2t == "random" and not options.lambda_keep
    model, tokenizer = load("tiny", None, "auto", torch.device("cpu"), None)
    step = EditStep(model, options, seed=0, mask_token_id=tokenizer.mask_token_id)
    assert len(step.candidates) > 500
    study_base.OfDigits().on_train_begin(None, None, None, model=step, processing_class=tokenizer)
    assert sorted(tokenizer.decode([token]) for token in step.candidates) == list("0123456789")
    assert step.candidates.equal(step.candidates.sort().values)  # as `random_tokens` needs them
