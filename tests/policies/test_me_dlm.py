"""ME-DLM against the released traces, against lists, and at its edges."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from medlm_oracle import Sequence1, decode
from two_heads import DEL, EOS, MASK, PAD, contexts, logits, tops

from fastedit import policies
from fastedit.policies import MEDLM

GOLDEN = Path(__file__).parents[1] / "golden" / "medlm"
IDS = {"delete_token_id": DEL, "pad_token_id": PAD, "eos_token_id": EOS}


def cases(name: str) -> list[dict]:
    with gzip.open(GOLDEN / f"{name}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


DECODED, DEFECTS = cases("decode"), cases("decode_defects")


def opened(policy: MEDLM, prompts: list[list[int]], masks: int) -> policies.State:
    """Prompts of any lengths, and `masks` masks behind each."""
    lengths = torch.tensor([len(prompt) + masks for prompt in prompts])
    ids = torch.full((len(prompts), int(lengths.max())), MASK)
    editable = torch.arange(ids.shape[1]).expand_as(ids)
    editable = editable >= lengths[:, None] - masks
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
    return policies.open(policy, ids, editable, mask_token_id=MASK, lengths=lengths)


def sequences(state: policies.State) -> list[list[int]]:
    lengths = state.lengths.tolist()
    assert state.ids.shape[1] == max(lengths)
    return [row[:length].tolist() for row, length in zip(state.ids, lengths, strict=True)]


def step(state: policies.State, model: dict) -> None:
    """Every other one is given packed logits."""
    one, two = logits(model, state.ids, state.lengths)
    if state.counts.forwards.sum() % 2:
        one, two = one[state.exists()], two[state.exists()]
    held = one.clone()
    policies.step_(state, one, next_logits=two)
    assert one.equal(held)


def policy_of(case: dict) -> MEDLM:
    steps = {name: case[name] for name in ("mask_steps", "edit_steps")}
    per_step = case.get("per_step")
    return MEDLM(**steps, max_length=case["max_len"], per_step=per_step, **IDS)


def check(case: dict, which: list[int]) -> None:
    """Sequences `which` of a case, together: every state, and what stands at the end."""
    want = case.get("recommended", case)
    prompts = [case["prompts"][q] for q in which]
    state = opened(policy_of(case), prompts, case["n0"])
    before = sequences(state)
    for number in range(case["mask_steps"]):
        step(state, case["model"])
        now = sequences(state)
        last = number == case["mask_steps"] - 1
        if "fills" in case and not last:
            for q, ids in zip(which, before, strict=True):
                for row, token in case["fills"][number][q]:
                    ids[row] = token
            assert now == before
        before = now
    for number, (ids, cu) in enumerate(want["refine"]):
        if number and not state.done.all():
            step(state, case["model"])
        assert sequences(state) == [ids[cu[q] : cu[q + 1]] for q in which]
    assert state.done.all()
    if case["edit_steps"]:
        assert state.buffers.done_step.tolist() == [want["done_step"][q] for q in which]
    for prompt, q, ids, may in zip(prompts, which, sequences(state), state.editable, strict=True):
        assert ids == prompt + want["out"][q]
        assert may[: len(ids)].tolist() == [i >= len(prompt) for i in range(len(ids))]


def test_the_scripted_model():
    vector = json.loads((GOLDEN / "model_vector.json").read_text())
    model, ids, length = vector["model"], torch.tensor([vector["ids"]]), torch.tensor([6])
    c = contexts(model, ids, length)
    assert c[0].tolist() == vector["ctx"]
    first, second = tops(model, ids, length, c)
    assert (first[0].tolist(), second[0].tolist()) == (vector["top1"], vector["top2"])
    for head, want in zip(logits(model, ids), (vector["logits1"], vector["logits2"]), strict=True):
        assert (head[0] * 8192).tolist() == want


@pytest.mark.parametrize("case", DECODED, ids=lambda case: f"{case['id']}-{case['kind']}")
def test_golden(case):
    """Together, and of every third case the last one alone."""
    count = len(case["prompts"])
    check(case, list(range(count)))
    if case["id"] % 3 == 0:
        check(case, [count - 1])


@pytest.mark.parametrize("case", DEFECTS, ids=lambda case: f"{case['id']}-{case['bug']}")
def test_released_defects_are_not_copied(case):
    check(case, list(range(len(case["prompts"]))))


@pytest.mark.parametrize("seed", range(12))
def test_against_lists(seed):
    """Sequences in all phases at a time: masks, holes, complete texts, kept tokens between."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    model = {"seed": seed, "V": number(6, 14), "pos_mod": 64, "fill": [20, 8, 6, 5]}
    model |= {"edit": [number(30, 90), 12, 4, 3, 3], "agree": number(20, 90), "special2": 10}
    model |= {"rival": 40}
    limit, begun = number(4, 14), []
    options = {"mask_steps": number(1, 5), "edit_steps": number(0, 6), "max_length": limit}
    options["per_step"] = [None, 1, 2][seed % 3]
    for _ in range(5):
        length, share = number(1, 12), number(0, 4) / 3
        ids = torch.randint(3, model["V"], (length,), generator=generator)
        masks = torch.rand(length, generator=generator) < share
        may = torch.rand(length, generator=generator) < 0.7
        any_id = torch.randint(0, model["V"], (length,), generator=generator)
        ids = torch.where(may, ids, any_id)  # what does not change may be a mask, or a DEL
        begun.append((ids.masked_fill(masks & may, MASK).tolist(), may.tolist()))
    want = []
    for ids, may in begun:
        heads = lambda ids: tuple(x[0] for x in logits(model, torch.tensor([ids])))  # noqa: E731
        want.append(decode(Sequence1(ids[:], may[:]), heads, **options))

    lengths = torch.tensor([len(ids) for ids, _ in begun])
    ids = torch.zeros(5, int(lengths.max()), dtype=torch.int64)
    editable = torch.zeros_like(ids, dtype=torch.bool)
    for row, may, (its, its_may) in zip(ids, editable, begun, strict=True):
        row[: len(its)], may[: len(its)] = torch.tensor(its), torch.tensor(its_may)
    policy = MEDLM(**options, **IDS)
    state = policies.open(policy, ids, editable, mask_token_id=MASK, lengths=lengths)
    bound = policy.most_forwards(12)
    for number_of_step in range(bound):
        if state.done.all():
            break
        step(state, model)
        for ids, sequence in zip(sequences(state), want, strict=True):
            steps = sequence.trace[: number_of_step + 1] or [ids]
            assert ids == steps[-1], number_of_step
    assert state.done.all()
    for ids, sequence in zip(sequences(state), want, strict=True):
        assert ids == sequence.ids
    assert state.counts.forwards.le(max(bound, 1)).all()
    if options["edit_steps"]:
        assert state.buffers.done_step.tolist() == [each.done_step for each in want]


def hot(tokens: list[int], vocab: int = 8) -> torch.Tensor:
    return 9.0 * torch.nn.functional.one_hot(torch.tensor([tokens]), vocab).float()


def one(policy: MEDLM, ids: list[int], prompt: int, **options) -> policies.State:
    may = torch.arange(len(ids))[None] >= prompt
    return policies.open(policy, torch.tensor([ids]), may, mask_token_id=MASK, **options)


def test_inserts_at_the_start_and_before_the_end_and_deletes_of_all():
    """The prompt's last token says what comes first; nothing comes behind the last token."""
    state = one(MEDLM(max_length=9, **IDS), [4, 5, EOS], prompt=1)
    policies.step_(state, hot([4, 5, EOS]), next_logits=hot([6, 7, 6]))
    assert state.ids.tolist() == [[4, 6, 5, 7, EOS]] and not state.done
    assert (int(state.counts.inserts), int(state.counts.deletes)) == (2, 0)
    assert state.moves.tolist() == [
        [[0, -1, 1, -1, 2]],
        [[0, 1, 1, 0, 0]],
        [[0, 0, 0, 0, 0]],
    ]
    policies.step_(state, hot([DEL] * 5), next_logits=hot([7] * 5))
    assert state.ids.tolist() == [[4]] and state.done
    assert int(state.counts.deletes) == 4

    state = one(MEDLM(max_length=9, **IDS), [5, EOS], prompt=0)
    policies.step_(state, hot([5, DEL]), next_logits=hot([7, 7]))
    assert state.ids.tolist() == [[5]] and not state.done  # nothing stands before the first one
    policies.step_(state, hot([DEL]), next_logits=hot([7]))
    assert state.ids.shape == (1, 0) and state.done


def test_the_limit_counts_what_stands_before_the_state():
    """Deletes make room in the same step; the first inserts get it."""
    policy = MEDLM(max_length=14, **IDS)
    state = one(policy, [4, 5, 6, EOS], prompt=1, start=10)
    policies.step_(state, hot([4, 5, DEL, EOS]), next_logits=hot([6, 6, 7, 6]))
    assert state.ids.tolist() == [[4, 6, 5, EOS]]
    unlimited = one(MEDLM(**IDS), [4, 5, EOS], prompt=1)  # as long as it begins
    policies.step_(unlimited, hot([4, 5, EOS]), next_logits=hot([6, 6, 6]))
    assert unlimited.ids.tolist() == [[4, 5, EOS]] and unlimited.done


def test_a_token_that_padding_dominates_is_ranked_by_what_is_left():
    """DEL takes all but 1e-6 of one row: its token still counts as sure, and goes first."""
    row = torch.tensor([-30.0, -30.0, 30.0, -30.0, 12.0, -30.0, -30.0, -30.0])
    other = torch.tensor([-30.0, -30.0, -30.0, -30.0, -30.0, 4.0, 2.0, -30.0])
    for dtype in (torch.float32, torch.bfloat16):
        state = one(MEDLM(mask_steps=2, **IDS), [4, MASK, MASK], prompt=1)
        first = torch.stack((other, other, row))[None].to(dtype)
        policies.step_(state, first, next_logits=first)
        assert state.ids.tolist() == [[4, MASK, 4]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("token", [PAD, DEL, 5])
def test_bad_logits_are_seen_where_they_are_read(token, value):
    """Of ids that are left out of the softmax, too; and nowhere else."""
    logits = hot([4, 5, 6])
    logits[0, 1, token] = value
    for ids, wrong in (([4, MASK, MASK], True), ([4, 5, MASK], False), ([4, 5, 6], True)):
        state = one(MEDLM(mask_steps=2, **IDS), ids, prompt=1)
        policies.step_(state, logits, next_logits=hot([5, 6, 6]))
        assert bool(state.bad) is wrong
    state = one(MEDLM(**IDS), [4, 5, 6], prompt=1)
    following = hot([5, 6, 6])
    following[0, 2, token] = value  # of what is behind the last token
    policies.step_(state, hot([4, 5, 6]), next_logits=following)
    assert not state.bad


def test_without_ids_nothing_is_dropped_deleted_or_ended():
    state = one(MEDLM(mask_steps=1), [4, MASK, MASK], prompt=1)
    policies.step_(state, hot([4, PAD, DEL]), next_logits=hot([5] * 3))
    assert state.ids.tolist() == [[4, PAD, DEL]]


def test_padding_that_ends_a_text_may_be_written():
    """LLaDA's padding is its EOS: the canvas behind the text goes, and an EOS stands at its end."""
    policy = MEDLM(mask_steps=1, max_length=9, delete_token_id=DEL, pad_token_id=3, eos_token_id=3)
    state = one(policy, [4, MASK, MASK, MASK], prompt=1)
    policies.step_(state, hot([4, 5, 3, 3]), next_logits=hot([5] * 4))
    assert state.ids.tolist() == [[4, 3]]
    policies.step_(state, hot([4, 3]), next_logits=hot([5, 5]))
    assert state.ids.tolist() == [[4, 5, 3]]
    policies.step_(state, hot([4, 5, 3]), next_logits=hot([5, 3, 3]))
    assert state.done and state.ids.tolist() == [[4, 5, 3]]


def test_draws_do_not_end_a_text_before_its_steps():
    state = one(MEDLM(edit_steps=3, **IDS), [4, 5, EOS], prompt=1, temperature=1.0, seed=3)
    for _ in range(3):
        assert not state.done
        ids = state.ids[0].tolist()
        policies.step_(state, hot(ids), next_logits=hot([*ids[1:], 6]))
    assert state.done


def test_what_does_not_fit_is_refused():
    ids = torch.full((2, 3), MASK)
    with pytest.raises(ValueError, match=r"lengths must be integers \[2\]"):
        policies.open("me_dlm", ids, mask_token_id=MASK, lengths=[1, 2, 3])
    with pytest.raises(ValueError, match="from 0 to 3"):
        policies.open("me_dlm", ids, mask_token_id=MASK, lengths=[1, 4])
    state = policies.open(MEDLM(**IDS), ids, mask_token_id=MASK, lengths=[3, 1])
    for wrong in ((2, 2, 8), (3, 8), (6, 8)):
        with pytest.raises(ValueError, match=r"logits must be \[(2, 3|4), ...\]"):
            policies.step_(state, torch.zeros(wrong))
    with pytest.raises(ValueError, match=r"next_logits must be \[4, ...\], its positions, packed"):
        policies.step_(state, torch.zeros(4, 8), next_logits=torch.zeros(2, 3, 8))
    with pytest.raises(ValueError, match="insert and delete"):
        policies.open("saber", ids, mask_token_id=MASK, lengths=[1, 2])
    for wrong in ({"mask_steps": 0}, {"edit_steps": -1}, {"max_length": 0}, {"pad_token_id": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MEDLM(**wrong)
    for name in ("pad_token_id", "eos_token_id"):
        with pytest.raises(ValueError, match=f"delete_token_id and {name} are both 2"):
            MEDLM(**IDS | {name: DEL})
        with pytest.raises(ValueError, match=f"mask_token_id=1 is the {name}"):
            policies.open(MEDLM(**{name: MASK}), ids, mask_token_id=MASK)


def test_an_edit_that_deletes_is_counted_where_padding_ends_a_text():
    policy = MEDLM(mask_steps=1, max_length=9, delete_token_id=DEL, pad_token_id=3, eos_token_id=3)
    state = one(policy, [4, MASK, MASK, MASK], prompt=1)
    policies.step_(state, hot([4, 3, 5, 3]))
    assert state.ids.tolist() == [[4, 3]] and state.counts.deletes.tolist() == [0]
    policies.step_(state, hot([4, DEL]), next_logits=hot([3, 3]))
    assert state.ids.tolist() == [[4]] and state.counts.deletes.tolist() == [1]
    assert state.moves[2].tolist() == [[0, 1]]


def test_next_logits_may_be_left_out_until_a_sequence_edits():
    ids = torch.tensor([[4, MASK, MASK], [4, 5, EOS]])
    state = policies.open(MEDLM(mask_steps=2, **IDS), ids[:1], mask_token_id=MASK)
    for _ in range(2):
        policies.step_(state, hot([4, 5, EOS]))
    with pytest.raises(ValueError, match="needs next_logits"):
        policies.step_(state, hot([4, 5, EOS]))
    both = policies.open(MEDLM(mask_steps=2, **IDS), ids, mask_token_id=MASK)
    with pytest.raises(ValueError, match="needs next_logits"):
        policies.step_(both, hot([4, 5, EOS]).expand(2, -1, -1))
    both.done[1] = True
    policies.step_(both, hot([4, 5, EOS]).expand(2, -1, -1))
