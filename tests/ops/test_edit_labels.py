"""Edit labels: golden cases, and the reference and C++ against each other."""

import itertools

import pytest
import torch
from edit_cases import (
    FIRST_GAPS,
    GOLDEN_IDS,
    GOLDEN_LCS,
    REAL_IDS,
    REAL_LCS,
    golden,
    lcs,
    levenshtein,
    needs_cpp,
)
from edit_pairs import REAL, masked, packed, pairs, rectangle, unpacked
from edit_steps import lcs_step
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops


@pytest.mark.parametrize(
    ("file", "canonical", "key"),
    [
        ("labels_released", False, "next"),
        ("labels_canonical", True, "next"),
        ("labels_canonical", "strict", "next_strict"),
    ],
)
def test_levenshtein_labels_are_the_golden_ones(backend, file, canonical, key):
    cases = golden(file)
    current, following = levenshtein(
        [case["noisy"] for case in cases],
        [case["clean"] for case in cases],
        backend,
        canonical_first_gap=canonical,
        **GOLDEN_IDS,
    )
    assert len(cases) == 3000
    assert current == [case["curr"] for case in cases]
    assert following == [case[key] or case["next"] for case in cases]


@pytest.mark.parametrize("wild", [True, False])
def test_lcs_labels_are_the_golden_ones(backend, wild):
    cases = [case for case in golden("indel_pairs") if case["wild"] is wild]
    drafts = [case["draft"] for case in cases]
    labels = lcs(drafts, [case["target"] for case in cases], backend, wildcard=wild, **GOLDEN_LCS)
    assert len(cases) == (1411 if wild else 589)
    assert labels == [case["labels"] for case in cases]
    applied = [lcs_step(*pair, *GOLDEN_LCS.values()) for pair in zip(drafts, labels, strict=True)]
    assert applied == [case["applied"] for case in cases]


@pytest.mark.parametrize(
    ("noisy", "clean", "current", "following", "options"),
    [
        ("xab", "xaab", "xab", "xaa$", {}),  # the missing a goes behind the one that is there
        ("abxcd", "abcde", "ab.cd", "abc-de", {}),
        ("abxcd", "abcde", "ab.cd", "abccde", {"label_after_delete": True}),
        ("ad", "abcd", "ad", "ab$", {}),  # c waits for the next round
        ("ab", "aab", "ab", "aa$", {}),
        ("ab", "aab", "ab", "ab$", {"canonical_first_gap": False}),  # the missing a is lost
        ("ab", "aacb", "ab", "ca$", {}),
        ("ab", "aacb", "ab", "aa$", {"canonical_first_gap": "strict"}),  # c waits
        ("abc", "", "...", "$--$", {}),
        ("abc", "", "...", "$$$$", {"label_after_delete": True}),
        ("", "ab", "", "a", {}),
        ("", "", "", "$", {}),
    ],
)
def test_worked_examples(backend, noisy, clean, current, following, options):
    """Letters are tokens; `.` deletes, `$` is EOS and `-` no label."""
    ids = {".": -1, "$": -2, "-": -100}
    want = [[ids.get(c, ord(c)) for c in text] for text in (current, following)]
    texts = [[ord(c) for c in text] for text in (noisy, clean)]
    got = levenshtein(*[[text] for text in texts], backend, **GOLDEN_IDS, **options)
    assert [labels for (labels,) in got] == want


DEFAULT, *OTHERS = [
    {"canonical_first_gap": gap, "label_after_delete": after, **REAL_IDS}
    for gap, after in itertools.product(FIRST_GAPS, (False, True))
]


def agree(noisy, clean, how):
    """C++ gives what the reference gives, whatever the pairs."""
    assert levenshtein(noisy, clean, **how) == levenshtein(noisy, clean, "reference", **how)


def lcs_agree(drafts, targets, wild):
    want = lcs(drafts, targets, "reference", wildcard=wild, **REAL_LCS)
    assert lcs(drafts, targets, wildcard=wild, **REAL_LCS) == want


def random_agree(count, seed):
    """All pairs by default, a tenth of them by each other setting.

    Ids of a real vocabulary; those that stand for an edit are among the texts' own.
    """
    noisy, clean = pairs(count, seed, REAL)
    some = slice(count // 10)
    agree(noisy, clean, DEFAULT)
    for how in OTHERS:
        agree(noisy[some], clean[some], how)
    drafts = masked(noisy, seed, REAL_LCS["mask_token_id"])
    lcs_agree(drafts, clean, True)
    lcs_agree(drafts[some], clean[some], False)


@needs_cpp
def test_cpp_equals_the_reference_on_20_000_pairs():
    """One pair in twenty has up to 64 tokens, the others 12: the reference takes a second."""
    random_agree(20_000, 0)


@pytest.mark.slow
@needs_cpp
@pytest.mark.parametrize("part", range(1, 51))
def test_cpp_equals_the_reference_on_a_million_pairs(part):
    random_agree(20_000, part)


@needs_cpp
@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    alphabet=st.integers(2, 50),
    first=st.sampled_from([0, REAL, -(2**62)]),
    how=st.sampled_from([DEFAULT, *OTHERS]),
    wild=st.booleans(),
)
def test_cpp_equals_the_reference_at_the_edges(data, alphabet, first, how, wild):
    texts = st.lists(st.integers(first, first + alphabet - 1), max_size=64)
    noisy = data.draw(st.lists(texts, max_size=3))
    clean = [data.draw(st.just(text) | texts | st.just([])) for text in noisy]
    agree(noisy, clean, how)
    lcs_agree(noisy, clean, wild)


@needs_cpp
@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 129, 200])
def test_cpp_equals_the_reference_around_whole_words(length):
    """Distances are kept 64 to a word, with carries from one to the next."""
    generator = torch.Generator().manual_seed(length)
    for high in (2, 40):
        one = torch.randint(0, high, (length,), generator=generator)
        kept = torch.rand(length, generator=generator) < 0.8
        other = torch.cat((one[kept], one[:5], one[~kept]))
        texts = [one.tolist(), other.tolist(), one.roll(3).tolist(), []]
        agree(*map(list, zip(*itertools.product(texts, texts), strict=True)), DEFAULT)
    apart = list(range(length))  # no match in most of the words
    agree([apart] * 3, [[0], [length - 1, 0], apart[::9]], DEFAULT)


def test_pairs_do_not_know_each_other(backend):
    noisy, clean = pairs(40, 5)
    together = levenshtein(noisy, clean, backend, **GOLDEN_IDS)
    for number, pair in enumerate(zip(noisy, clean, strict=True)):
        alone = levenshtein(*[[text] for text in pair], backend, **GOLDEN_IDS)
        assert [labels[number] for labels in together] == [labels for (labels,) in alone]
    assert levenshtein([], [], backend, **GOLDEN_IDS) == ([], [])


@needs_cpp
def test_cpp_gives_the_same_labels_on_two_threads(two_threads):
    noisy, clean = (20 * texts for texts in pairs(501, 6))
    assert sum(map(len, noisy)) > 40_000  # fewer ids are work for one thread
    found = []
    for on, order in ((False, 1), (True, -1)):  # another order: memory may still hold the labels
        two_threads(on)
        texts = noisy[::order], clean[::order]
        labels = *levenshtein(*texts, **GOLDEN_IDS), lcs(*texts, **REAL_LCS)
        found.append([one[::order] for one in labels])
    assert found[0] == found[1]


def test_tensors_may_be_strided_and_boundaries_narrow(backend):
    noisy, clean = pairs(30, 7)
    want = levenshtein(noisy, clean, backend, **GOLDEN_IDS), lcs(noisy, clean, backend, **REAL_LCS)

    def spread(tensor):
        wide = torch.stack((tensor, torch.full_like(tensor, 9)), dim=-1)
        return wide[..., 0]

    (ids, cu), (other, other_cu) = packed(noisy), packed(clean)
    (rows, lengths), (goals, goal_lengths) = rectangle(noisy), rectangle(clean)
    narrow = [spread(x.int()) for x in (cu, other_cu, lengths, goal_lengths)]
    with ops.use_backend(backend):
        current, following = ops.levenshtein_labels(
            spread(ids), narrow[0], spread(other), narrow[1], **GOLDEN_IDS
        )
        labels = ops.lcs_labels(spread(rows), spread(goals), *narrow[2:], **REAL_LCS)
    assert (unpacked(current, cu), unpacked(following, cu, more=1)) == want[0]
    assert [row[:n] for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)] == want[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_tensors_on_a_gpu_get_labels_there():
    noisy, clean = pairs(50, 10)
    levenshtein_given = [x.cuda() for x in (*packed(noisy), *packed(clean))]
    (ids, lengths), (other, other_lengths) = rectangle(noisy), rectangle(clean)
    lcs_given = [x.cuda() for x in (ids, other, lengths, other_lengths)]
    current, following = ops.levenshtein_labels(*levenshtein_given, **GOLDEN_IDS)
    labels = ops.lcs_labels(*lcs_given, **REAL_LCS)
    assert {x.device.type for x in (current, following, labels)} == {"cuda"}
    want = ops.levenshtein_labels(*packed(noisy), *packed(clean), **GOLDEN_IDS)
    assert current.cpu().equal(want[0]) and following.cpu().equal(want[1])
    assert labels.cpu().equal(ops.lcs_labels(*[x.cpu() for x in lcs_given], **REAL_LCS))
