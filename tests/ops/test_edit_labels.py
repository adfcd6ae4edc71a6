"""Edit labels: golden cases, the reference and C++ against each other, and that edits arrive."""

import gzip
import itertools
import json
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from edit_pairs import DELETE, EOS, INSERT, REAL, masked, packed, pairs, rectangle, unpacked
from edit_steps import lcs_step, levenshtein_step, rounds_to_arrive
from hypothesis import given, settings
from hypothesis import strategies as st

from fastedit import ops
from fastedit.ops import library
from fastedit.ops.edit_labels.reference import distances

FOLDER = Path(__file__).parents[1] / "golden" / "edit_labels"
GOLDEN_IDS = {"delete_token_id": -1, "eos_token_id": -2}
GOLDEN_LCS = {"mask_token_id": 1, "delete_token_id": 2, "insert_token_id": 3}
REAL_IDS = {"delete_token_id": DELETE, "eos_token_id": EOS}
# The mask is among the ids of the targets, too.
REAL_LCS = {"mask_token_id": REAL, "delete_token_id": DELETE, "insert_token_id": INSERT}
FIRST_GAPS = [True, False, "strict"]
needs_cpp = pytest.mark.skipif(bool(library.why_not()), reason="the C++ back end is not here")


@cache
def golden(name):
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def levenshtein(noisy, clean, backend="cpp", **options):
    """(current, next) of each pair, as lists."""
    (ids, cu), other = packed(noisy), packed(clean)
    with ops.use_backend(backend):
        current, following = ops.levenshtein_labels(ids, cu, *other, **options)
    return unpacked(current, cu), unpacked(following, cu, more=1)


def lcs(drafts, targets, backend="cpp", **options):
    """Labels of each block, as lists; what is behind them has none."""
    (ids, lengths), (other, other_lengths) = rectangle(drafts), rectangle(targets)
    with ops.use_backend(backend):
        labels = ops.lcs_labels(ids, other, lengths, other_lengths, **options)
    valid = torch.arange(ids.shape[1]) < lengths[:, None]
    assert labels.shape == ids.shape and (labels[~valid] == -100).all()
    return [row[:n] for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)]


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


# What the labels are for: whoever follows them, round after round, arrives.


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


IDS, CU = torch.arange(4), torch.tensor([0, 1, 4])
ROWS, LENGTHS = torch.arange(6).reshape(2, 3), torch.tensor([3, 1])


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"noisy": IDS.int()}, TypeError, "noisy must be int64, got torch.int32"),
        ({"clean": IDS[None]}, ValueError, r"clean .*\[1, 4\]"),
        ({"clean": torch.empty(4, dtype=torch.int64, device="meta")}, ValueError, "meta"),
        ({"noisy_cu": CU.float()}, TypeError, "noisy_cu must be int64 or int32"),
        ({"noisy_cu": torch.tensor([0, 3, 5])}, ValueError, r"noisy_cu .*0 to 4.*\[0, 3, 5\]"),
        ({"noisy_cu": torch.tensor([0, 5, 4])}, ValueError, r"without falling.*\[0, 5, 4\]"),
        ({"clean_cu": torch.tensor([1, 4, 4])}, ValueError, r"clean_cu .*\[1, 4, 4\]"),
        ({"clean_cu": CU[:0]}, ValueError, r"clean_cu .*\[\]"),
        ({"clean_cu": torch.tensor([0, 4])}, ValueError, "one length.*3 and 2"),
        ({"delete_token_id": None}, TypeError, "delete_token_id .*None"),
        ({"eos_token_id": 2**63}, ValueError, "eos_token_id .*9223372036854775808"),
        ({"eos_token_id": 8}, ValueError, "must differ; got 8, 8"),
        ({"canonical_first_gap": "loose"}, ValueError, "canonical_first_gap .*'loose'"),
    ],
)
def test_wrong_pairs_raise_and_name_the_value(change, error, named):
    arguments = {"noisy": IDS, "noisy_cu": CU, "clean": IDS, "clean_cu": CU}
    ids = {"delete_token_id": 8, "eos_token_id": 9}
    with pytest.raises(error, match=named):
        ops.levenshtein_labels(**(arguments | ids | change))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"draft": ROWS.float()}, TypeError, "draft must be int64, got torch.float32"),
        ({"target": IDS}, ValueError, r"target .*\[4\]"),
        ({"target": ROWS[:1]}, ValueError, r"\[2, 3\] and \[1, 3\]"),
        ({"draft_len": LENGTHS[:1]}, ValueError, "draft_len .*2; got 1"),
        ({"target_len": LENGTHS.bool()}, TypeError, "target_len .*torch.bool"),
        ({"draft_len": torch.tensor([3, -1])}, ValueError, "draft_len .*0 to 3.*-1"),
        ({"target_len": torch.tensor([4, 1])}, ValueError, "target_len .*0 to 3.*4"),
        ({"mask_token_id": 1.0}, TypeError, "mask_token_id .*1.0"),
        ({"insert_token_id": 2}, ValueError, "must differ; got 1, 2, 2"),
    ],
)
def test_wrong_blocks_raise_and_name_the_value(change, error, named):
    arguments = {"draft": ROWS, "target": ROWS, "draft_len": LENGTHS, "target_len": LENGTHS}
    with pytest.raises(error, match=named):
        ops.lcs_labels(**(arguments | GOLDEN_LCS | change))


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
