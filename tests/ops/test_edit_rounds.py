"""What edit labels are for: whoever follows them, round after round, arrives at the target."""

import itertools
from functools import partial

import pytest
from edit_cases import GOLDEN_IDS, GOLDEN_LCS, REAL_IDS, golden, lcs, levenshtein, needs_cpp
from edit_pairs import masked, pairs
from edit_steps import lcs_step, levenshtein_step, rounds_to_arrive

from fastedit.ops.edit_labels.reference import distances


def levenshtein_round(noisy, clean, backend="cpp", **options):
    labels = levenshtein(noisy, clean, backend, **options)
    ids = options["delete_token_id"], options["eos_token_id"]
    return [levenshtein_step(*pair, *ids) for pair in zip(*labels, strict=True)]


def lcs_round(drafts, targets, backend="cpp", **options):
    labels = lcs(drafts, targets, backend, **options)
    ids = [options[f"{name}_token_id"] for name in ("mask", "delete", "insert")]
    return [lcs_step(*pair, *ids) for pair in zip(drafts, labels, strict=True)]


@needs_cpp
@pytest.mark.parametrize(
    ("file", "canonical", "key", "stuck"),
    [
        ("labels_released", False, "rounds", 741),
        ("labels_canonical", True, "rounds", 0),
        ("labels_canonical", "strict", "rounds_strict", 0),
    ],
)
def test_cpp_labels_take_the_golden_rounds(file, canonical, key, stuck):
    cases = golden(file)
    for after in (False, True):  # labels beside deleted tokens change no round
        step = partial(
            levenshtein_round,
            canonical_first_gap=canonical,
            label_after_delete=after,
            **GOLDEN_IDS,
        )
        rounds = rounds_to_arrive(
            [case["noisy"] for case in cases], [case["clean"] for case in cases], step
        )
        assert rounds == [case[key] for case in cases]
        assert rounds.count(None) == stuck


@needs_cpp
def test_cpp_labels_of_wildcards_take_the_golden_rounds():
    cases = golden("indel_pairs")
    step = partial(lcs_round, **GOLDEN_LCS)
    rounds = rounds_to_arrive(
        [case["draft"] for case in cases], [case["target"] for case in cases], step
    )
    assert rounds == [case["rounds"] for case in cases]


def every_text(ids, longest):
    sizes = range(longest + 1)
    return [list(text) for size in sizes for text in itertools.product(ids, repeat=size)]


@needs_cpp
@pytest.mark.parametrize("canonical", [True, "strict"])
@pytest.mark.parametrize(("alphabet", "longest"), [(2, 6), (3, 4)])
def test_cpp_labels_lead_every_short_text_to_every_other(canonical, alphabet, longest):
    texts = every_text(range(alphabet), longest)
    noisy, clean = map(list, zip(*itertools.product(texts, texts), strict=True))
    step = partial(levenshtein_round, canonical_first_gap=canonical, **GOLDEN_IDS)
    rounds = rounds_to_arrive(noisy, clean, step)
    assert None not in rounds and max(rounds) == longest


@needs_cpp
def test_cpp_labels_of_wildcards_lead_every_short_block_to_every_other():
    """Blocks of a mask and two tokens; targets without masks, of the same length."""
    drafts, targets = [], []
    for length in range(6):
        for pair in itertools.product(
            itertools.product((1, 4, 5), repeat=length), itertools.product((4, 5), repeat=length)
        ):
            drafts.append(list(pair[0]))
            targets.append(list(pair[1]))
    rounds = rounds_to_arrive(drafts, targets, partial(lcs_round, **GOLDEN_LCS))
    assert None not in rounds and max(rounds) <= 4


def arrive(count, seed):
    """From random drafts, by labels of each kind that is to arrive."""
    noisy, clean = pairs(count, seed)
    for canonical in (True, "strict"):
        step = partial(levenshtein_round, canonical_first_gap=canonical, **REAL_IDS)
        assert None not in rounds_to_arrive(noisy, clean, step)
    drafts = [  # as long as their targets, with other tokens behind them
        (text + text[::-1] + [4] * len(target))[: len(target)]
        for text, target in zip(noisy, clean, strict=True)
    ]
    step = partial(lcs_round, **GOLDEN_LCS)
    assert None not in rounds_to_arrive(masked(drafts, seed, 1), clean, step)


@needs_cpp
def test_cpp_labels_arrive_from_random_drafts():
    arrive(3000, 8)


@pytest.mark.slow
@needs_cpp
@pytest.mark.parametrize("part", range(1, 11))
def test_cpp_labels_arrive_from_200_000_random_drafts(part):
    arrive(20_000, 100 + part)


@needs_cpp
def test_a_round_of_strict_cpp_labels_comes_nearer():
    """The distance falls with each round, to nothing."""
    noisy, clean = pairs(300, 9, long=24)
    for _ in range(60):
        left = [distances(*pair)[-1][-1] for pair in zip(noisy, clean, strict=True)]
        noisy = levenshtein_round(noisy, clean, canonical_first_gap="strict", **REAL_IDS)
        now = [distances(*pair)[-1][-1] for pair in zip(noisy, clean, strict=True)]
        assert all(b < a or a == 0 for a, b in zip(left, now, strict=True))
        if not any(now):
            return
    raise AssertionError("not there after 60 rounds")
