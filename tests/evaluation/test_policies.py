"""Policies side by side: which are asked for, which can run, what their rows hold."""

from __future__ import annotations

import itertools

import pytest

from fastedit.decoder import Decoder
from fastedit.evaluation.accuracy import evaluate
from fastedit.evaluation.policies import compare, grid, named
from fastedit.policies import POLICIES, parse

pytest.importorskip("reasoning_gym")
OPTIONS = {"max_new_tokens": 24}
TIMES = {"seconds", "tokens_per_second"}


@pytest.fixture(scope="module")
def decoder():
    return Decoder.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def task():
    from fastedit.tasks import get_task

    return get_task("chain_sum")


@pytest.mark.parametrize(
    ("texts", "policies"),
    [
        (["wino,saber"], ["wino", "saber"]),
        (["wino", " saber "], ["wino", "saber"]),
        (
            ["remask:trigger=t2t,tau=.9,wino:threshold=.5, verify_threshold=.8,saber"],
            ["remask:trigger=t2t,tau=0.9", "wino:threshold=0.5,verify_threshold=0.8", "saber"],
        ),
        (["remask,remask:tau=.3,remask:tau=.4,"], ["remask", "remask:tau=0.4"]),
        (["all"], sorted(POLICIES)),
        (["wino:threshold=.5,all"], ["wino:threshold=0.5", *sorted(POLICIES)]),
    ],
)
def test_commas_part_policies_and_fields(texts, policies):
    assert [str(policy) for policy in named(texts)] == policies


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([""], "no policy is named"),
        ([","], "no policy is named"),
        (["winno"], "policy must be one of .* got 'winno'"),
        (["wino,tau=.3"], "got 'wino,tau=.3'"),
        (["tau=.3,wino"], "got 'tau=.3'"),
        (["wino", "tau=.3"], "got 'tau=.3'"),
        (["wino:tau=.3,saber"], "wino has no 'tau'"),
    ],
)
def test_what_is_no_policy_is_named(texts, words):
    with pytest.raises(ValueError, match=words):
        named(texts)


def test_a_row_is_an_evaluation_that_names_its_policy(decoder, task):
    policies = [parse("remask:tau=.99,threshold=.1"), parse("saber")]
    done = []
    rows = list(compare(decoder, task, policies, 3, on_done=done.append, **OPTIONS))
    for policy, row in zip(policies, rows, strict=True):
        alone = evaluate(decoder, task, 3, policy=policy, **OPTIONS)
        assert row.items() >= {k: v for k, v in alone.items() if k not in TIMES}.items()
        assert parse(row["policy"]) == policy
    assert rows[0]["parameters"] | {"tau": 0.99, "threshold": 0.1} == rows[0]["parameters"]
    assert rows[1]["parameters"]["scope"] == "block"  # as it decodes
    assert rows[0]["remasks"] > 0
    assert rows[0]["remasks_per_100_tokens"] == 100 * rows[0]["remasks"] / rows[0]["tokens"]
    assert sum(done) == 6


def test_each_problem_draws_with_a_seed_of_its_own(decoder, task):
    (row,) = compare(decoder, task, named(["remdm:steps=4"]), 3, seed=5, **OPTIONS)
    chats = [task.messages(problem.question) for problem in task.test_set(3)]
    out = decoder.generate(chats, policy="remdm:steps=4", seed=[5, 6, 7], **OPTIONS)
    scores = map(task.score, out.texts, task.test_set(3))
    assert row["partial_credit"] == sum(score.credit for score in scores) / 3
    assert (row["tokens"], row["remasks"]) == (
        sum(each.tokens for each in out.stats),
        sum(each.remasks for each in out.stats),
    )


def test_every_policy_has_numbers_or_a_reason(decoder, task):
    """Rows come as they are made, so those of a run that is stopped are there."""
    options = OPTIONS | {"max_new_tokens": 8, "block_length": 8}
    with pytest.warns(UserWarning, match="block_length=8"):
        rows = list(compare(decoder, task, named(["all"]), 1, **options))
    assert [row["policy"] for row in rows] == sorted(POLICIES)
    refused = {row["policy"]: row["reason"] for row in rows if "reason" in row}
    assert list(refused) == ["correction", "joint_threshold_indel", "me_dlm"]
    words = "correction head", "insert and delete", "full attention"
    assert all(word in reason for word, reason in zip(words, refused.values(), strict=True))
    assert all(row["forwards"] > 0 and not row["failed"] for row in rows if "reason" not in row)
    stopped = compare(decoder, task, named(["proseco:scope=generated,wino,saber"]), 1, **OPTIONS)
    first, second = itertools.islice(stopped, 2)
    assert "cached" in first["reason"] and first["parameters"]["scope"] == "generated"
    assert second["policy"] == "wino" and second["tokens"] > 0


@pytest.mark.parametrize("bad", [{"max_new_tokens": 10**6}, {"mask_token_id": 1, "policy": None}])
def test_what_no_policy_could_run_with_is_raised(decoder, task, bad):
    with pytest.raises((ValueError, TypeError)):
        next(compare(decoder, task, named(["wino"]), 1, **(OPTIONS | bad)))


@pytest.mark.parametrize(
    ("policy", "temperature", "reason"),
    [("entropy_bound", 1.0, "temperatures of its own"), ("remask", 1.0, None)],
)
def test_options_that_a_policy_refuses_are_its_reason(decoder, task, policy, temperature, reason):
    (row,) = compare(decoder, task, named([policy]), 1, temperature=temperature, **OPTIONS)
    assert ("reason" in row) is bool(reason)
    assert reason is None or reason in row["reason"]


def test_rows_beside_a_block_count_as_forwards(decoder, task):
    """Shadows double every forward; reopened blocks add one each, where there are any before."""
    chat = task.messages(task.test_set(1)[0].question)

    def stats(policy, **options):
        return decoder.generate([chat], policy=policy, **(OPTIONS | options)).stats[0]

    plain = stats("joint_threshold")
    assert plain.block_forwards == plain.forwards > 0
    shadows = stats("wino")
    assert shadows.block_forwards == 2 * shadows.forwards
    # Without an end: as many blocks as there is room for; the first one has none before it.
    long = {"eos_token_id": [], "max_new_tokens": 96}
    apart = stats("multi_block:rounds=0", **long)
    assert apart.block_forwards == apart.forwards
    alone = stats("multi_block:blocks=1", **long)
    assert alone.block_forwards == alone.forwards
    wide = [stats(f"multi_block:blocks={blocks},rounds=1", **long) for blocks in (2, 3)]
    beside = [each.block_forwards - each.forwards for each in wide]
    assert 0 < beside[0] < beside[1]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_what_training_a_policy_needs_is_a_phrase(name):
    needed = POLICIES[name]().needs_training
    trained = "entropy_bound joint_threshold multi_block proseco self_correction correction"
    trained += " joint_threshold_indel me_dlm"
    assert (needed is not None) is (name in trained.split())
    assert needed is None or needed.startswith(("to ", "on ", "with "))


def test_training_follows_the_parameters():
    for text in ("joint_threshold:editing_threshold=none", "correction:scorer=confidence"):
        assert parse(text).needs_training is None
    assert "RemeDi" in parse("correction:mode=rank").needs_training


@pytest.mark.parametrize(
    ("base", "texts", "policies"),
    [
        (
            "joint_threshold",
            ["threshold=.5,.7,.9"],
            ["joint_threshold:threshold=0.5", "joint_threshold", "joint_threshold:threshold=0.9"],
        ),
        (
            "remask:trigger=t2t",
            ["tau=.3,.4,threshold=.6", "cap=2"],
            [f"remask:trigger=t2t,tau={tau},cap=2,threshold=0.6" for tau in (0.3, 0.4)],
        ),
        ("joint_threshold", ["editing_threshold=none, .5,.5"], 2),
        ("wino", [], ["wino"]),
    ],
)
def test_a_grid_is_every_combination_once(base, texts, policies):
    found = grid(parse(base), texts)
    if isinstance(policies, int):
        assert len(found) == policies
    else:
        assert set(found) == set(map(parse, policies)) and len(found) == len(policies)


@pytest.mark.parametrize(
    ("texts", "given", "words"),
    [
        (["thresh=.5"], (), "joint_threshold has no 'thresh'; its parameters are threshold"),
        (["threshold"], (), "must be FIELD=VALUE"),
        (["threshold=,"], (), "must be FIELD=VALUE"),
        (["threshold=.5,high"], (), "threshold is of type float, not 'high'"),
        (["threshold=.5", "threshold=.6"], (), "threshold is given twice"),
        (["threshold=.5"], ("threshold",), "threshold is given twice"),
        (["threshold=.5,50"], (), "--grid threshold=50.0: "),
    ],
)
def test_what_is_no_grid_is_named(texts, given, words):
    with pytest.raises(ValueError, match=words):
        grid(parse("joint_threshold"), texts, given)
