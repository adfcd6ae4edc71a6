"""With lookahead a forward serves two blocks: the same tokens, edits and draws, fewer forwards."""

import itertools

import cases
import pytest
import torch
from cases import DRAWN, GOLDEN, PROMPTS, B, prompt
from fakes import Recorder

from fastedit import Decoder
from fastedit.plans import block as plans
from fastedit.tasks import get_task

BASE = GOLDEN | {"eos_token_id": []}
ENDS = [
    *cases.ENDS,
    {"threshold": 0.0, "editing_threshold": 0.0, "max_post_steps": 0},  # in their first forward
    {"threshold": 0.9, "editing_threshold": None, "num_to_transfer": 3},
    DRAWN,
]


def counts(stats):
    return stats.tokens, stats.m2t_commits, stats.t2t_edits, stats.finish_reason


def both(model, prompts, **options):
    """Outputs without and with lookahead; all but the number of forwards must be equal."""
    options = BASE | options
    plain, ahead = (
        Decoder(model).generate(prompts, **options, lookahead=on) for on in (False, True)
    )
    assert [ids.tolist() for ids in ahead.sequences] == [ids.tolist() for ids in plain.sequences]
    for one, other in zip(plain.stats, ahead.stats, strict=True):
        assert counts(one) == counts(other)
        assert other.forwards <= one.forwards
    return plain, ahead


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize(
    ("end", "length"), zip(ENDS, itertools.cycle((B - 1, 3 * B)), strict=False)
)
def test_same_tokens_alone(golden_model, length, end):
    both(golden_model, prompt(length), **end)


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize(
    ("end", "share"),
    [(ENDS[0], 0.0), *((end, float(n % 2 == 0)) for n, end in enumerate(ENDS))],
)
def test_same_tokens_in_a_batch(golden_model, monkeypatch, share, end):
    """Whatever share of the rows can use its next block, rows that end early included."""
    monkeypatch.setattr(plans, "AHEAD_SHARE", share)
    both(golden_model, PROMPTS, **end, eos_token_id=GOLDEN["eos_token_id"])


def test_golden_cases(golden_model, golden_cases):
    for case in golden_cases:
        out = Decoder(golden_model).generate(
            torch.tensor(case["prompt"]), **case["params"], lookahead=True
        )
        assert out.sequences[0].tolist() == case["output"]


def test_a_verified_block_costs_no_first_forward_of_the_next(golden_model):
    """Settled blocks, alone: every block after the first saves exactly one forward."""
    options = {"threshold": 0.9, "editing_threshold": None}
    plain, ahead = both(golden_model, prompt(2 * B), **options)
    blocks = -(-BASE["max_new_tokens"] // B)
    assert plain.stats[0].forwards - ahead.stats[0].forwards == blocks - 1


def test_forwards_take_two_blocks_only_where_the_first_has_no_mask(golden_model):
    model = Recorder(golden_model)
    out = Decoder(model).generate(prompt(2 * B + 3), **BASE, lookahead=True)
    steps = model.calls[out.stats[0].prefill_forwards :]
    assert len(steps) == out.stats[0].forwards
    wide = [call for call in steps if len(call[0][0]) == 2 * B]
    assert wide and all(127 not in call[0][0][:B] for call in wide)
    assert all(call[0][0][B:] == [127] * B for call in wide)
    narrow = [call for call in steps if len(call[0][0]) == B]
    assert len(narrow) + len(wide) == len(steps)
    last = 2 * B + 3 + BASE["max_new_tokens"]  # the last block has none after it
    assert all(call[1][0][-1] < -(-last // B) * B for call in steps)


def test_without_a_cache_it_changes_nothing(golden_model):
    plain, ahead = both(golden_model, prompt(5), use_cache=False)
    assert plain.stats[0].forwards == ahead.stats[0].forwards


def test_streams_the_same_text():
    decoder = Decoder.from_pretrained("tiny")
    task = get_task("chain_sum")
    message = task.messages(next(task.training()).question)
    texts = [
        "".join(
            event.text
            for event in decoder.stream(message, drafts=True, lookahead=on)
            if event.kind == "commit"
        )
        for on in (False, True)
    ]
    assert texts[0] == texts[1] != ""
