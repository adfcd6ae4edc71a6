"""Texts that shrink and grow, through a Decoder: ME-DLM's rule over models with two heads."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_families import loaded
from hypothesis import example, given, settings
from hypothesis import strategies as st
from living import by_request, check_empty, ids_of
from two_heads import DEL, EOS, MASK, PAD, TwoHeads

from fastedit import DecodeConfig, Decoder
from fastedit.cli.canvas import Canvas
from fastedit.heads import NextTokenHead
from fastedit.models import Family, packed
from fastedit.policies import MEDLM

GOLDEN = Path(__file__).parents[1] / "golden" / "medlm" / "decode.jsonl.gz"
IDS = {"delete_token_id": DEL, "pad_token_id": PAD, "eos_token_id": EOS}
FULL = Family(attention="full", blocks="after_prompt", mask_token_id=MASK)
NOTHING = torch.empty(0, dtype=torch.int64)
SCRIPT = {"seed": 5, "V": 24, "pos_mod": 64, "fill": [10, 5, 4, 0], "edit": [70, 8, 3, 0, 0]}
SCRIPT |= {"agree": 85, "special2": 0, "rival": 40}
with gzip.open(GOLDEN, "rt") as file:
    CASES = [json.loads(line) for line in file]


def scripted(policy: MEDLM, script: dict = SCRIPT, packs: bool = False, **options) -> Decoder:
    config = DecodeConfig(policy=policy, **{"eos_token_id": [], "seed": 1} | options)
    return Decoder(TwoHeads(script, packs), config=config, family=FULL)


def lists(out) -> list[list[int]]:
    return [ids.tolist() for ids in out.sequences]


@pytest.mark.parametrize("case", CASES[2::7], ids=lambda case: f"{case['id']}-{case['kind']}")
def test_golden_traces(case):
    """What the model is shown is every state of the released loop, and nothing else; a sequence
    stops at its fixed point. In any company the same, padded or packed."""
    steps = {name: case[name] for name in ("mask_steps", "edit_steps")}
    policy = MEDLM(**steps, max_length=case["max_len"], **IDS)
    decoder = scripted(policy, case["model"], max_new_tokens=case["n0"])
    prompts = [torch.tensor(prompt) for prompt in case["prompts"]]
    out = decoder.generate(prompts)
    assert lists(out) == case["out"]
    packed = scripted(policy, case["model"], packs=True, max_new_tokens=case["n0"])
    for way, most in ((decoder, 2), (packed, "auto")):
        together = way.generate(prompts[::-1], max_batch=most)
        assert lists(together) == case["out"][::-1] and together.stats[::-1] == out.stats
    masks = min(case["mask_steps"], case["n0"])
    for q, (prompt, stats) in enumerate(zip(prompts, out.stats, strict=True)):
        decoder.model.calls.clear()
        alone = decoder.generate(prompt)
        assert lists(alone) == [case["out"][q]] and alone.stats == [stats]
        states = [ids[cu[q] : cu[q + 1]] for ids, cu in case["refine"]]
        edits = stats.forwards - masks
        assert decoder.model.calls[masks:] == states[:edits]
        assert all(state == states[edits] for state in states[edits:])
        assert stats.finish_reason == "length" and stats.tokens == len(case["out"][q])


def test_stats_are_of_the_edit_phase_and_drafts_show_it():
    """Inserts less deletes is how much longer a text is; padding that goes is no delete."""
    decoder = scripted(MEDLM(mask_steps=4, edit_steps=6, max_length=60, **IDS), max_new_tokens=18)
    events = list(decoder.stream(torch.tensor([7, 9]), drafts=True))
    drafts = [event for event in events if event.kind == "draft"]
    (commit,) = (event for event in events if event.kind == "commit")
    stats = events[-1].stats
    assert len(drafts) == stats.forwards <= 10 and events.index(commit) == len(events) - 2
    assert commit.ids == drafts[-1].ids == lists(decoder.generate(torch.tensor([7, 9])))[0]
    filled = drafts[3].ids
    assert PAD not in filled and len(filled) < 18 and filled[-1] == EOS
    assert stats.inserts - stats.deletes == len(commit.ids) - len(filled)
    assert stats.inserts > 0 and stats.deletes > 0 and stats.m2t_commits == 18
    assert followed(drafts) == (stats.inserts, stats.deletes)
    for before, after in pairwise(drafts[3:]):
        assert len(after.moved) == len(after.ids)
        kept = [place for place in after.moved if place >= 0]
        gone = set(after.deleted)
        assert kept == [i for i in range(len(before.ids)) if i not in gone]


def followed(drafts) -> tuple[int, int]:
    """Inserts and deletes as the live view counts them."""
    special = SimpleNamespace(all_special_ids=[], added_tokens_decoder={})
    canvas = Canvas(special, MASK)
    for draft in drafts:
        canvas.update(draft)
        assert canvas.ids == draft.ids and canvas.moves
    return canvas.inserts, canvas.deletes


@pytest.mark.parametrize("edit", [[20, 70, 0, 0, 0], [90, 3, 2, 0, 0]], ids=["deletes", "inserts"])
def test_the_live_view_follows_a_draft_that_changes_its_length_at_once(edit):
    decoder = scripted(MEDLM(edit_steps=4, max_length=60, **IDS), SCRIPT | {"edit": edit})
    events = list(decoder.stream(torch.tensor([7]), drafts=True, draft=list(range(5, 20))))
    stats = events[-1].stats
    drafts = [event for event in events if event.kind == "draft"]
    assert followed(drafts) == (stats.inserts, stats.deletes)
    assert len(drafts[0].ids) != 15


def test_a_draft_is_refined_without_a_mask_phase():
    """An EOS is put behind it, so that it can grow at its end; its masks are filled first."""
    decoder = scripted(MEDLM(mask_steps=4, edit_steps=5, **IDS))
    calls = decoder.model.calls
    text = [8, 9, 10, 11, 12]
    for prompt in (torch.tensor([7, 9]), NOTHING):
        calls.clear()
        out = decoder.generate(prompt, draft=text)
        assert calls[0] == [*prompt.tolist(), *text, EOS]
        assert out.stats[0].forwards <= 5 and out.stats[0].m2t_commits == 0
        assert len(out.sequences[0]) <= 10  # twice the draft
        short = decoder.generate(prompt, draft=text, max_new_tokens=5)
        assert len(short.sequences[0]) <= 5
    calls.clear()
    out = decoder.generate(torch.tensor([7, 9]), draft=[8, MASK, MASK, 11, EOS])
    assert calls[0] == [7, 9, 8, MASK, MASK, 11, EOS] and out.stats[0].m2t_commits == 2
    assert MASK in calls[1] and MASK not in calls[2]  # one mask per forward, of two
    room = decoder.generate(torch.tensor([7, 9]), draft=text, max_new_tokens=40)
    assert room.stats[0].forwards <= 5 and room.stats[0].m2t_commits == 0  # no masks behind it
    kept = decoder.generate(torch.tensor([7]), draft=[8, MASK, 10], keep_draft=True)
    ids = kept.sequences[0].tolist()
    assert ids[0] == 8 and ids[-2:] == [10, EOS] and MASK not in ids


def says(first, second, vocab: int = 8):
    """A model that says the same ids of every position, whatever it sees; else it would say 5."""

    def model(*, input_ids, **_):
        shape = (*input_ids.shape, vocab)
        one, two = torch.zeros(shape), torch.zeros(shape)
        one[..., 5] = 1.0
        one[..., first], two[..., second] = 9.0, 9.0
        return SimpleNamespace(logits=one, next_logits=two)

    return model


def test_edges():
    policy = MEDLM(mask_steps=3, edit_steps=4, **IDS)
    options = {"policy": policy, "eos_token_id": [], "max_new_tokens": 6}

    def run(first, second, prompt=(4,), **more):
        decoder = Decoder(says(first, second), family=FULL)
        out = decoder.generate(torch.tensor(prompt, dtype=torch.int64), **options | more)
        return lists(out)[0], out.stats[0]

    ids, stats = run(PAD, 5)  # an empty response, which can never grow
    assert ids == [] and (stats.forwards, stats.deletes, stats.m2t_commits) == (3, 0, 6)
    ids, stats = run(DEL, 5)  # nothing that says DEL is filled by it, and then all of it goes
    assert ids == [] and (stats.forwards, stats.deletes) == (4, 6)
    ids, stats = run(5, 6)  # there is no room: prompt + max_new_tokens
    assert ids == [5] * 6 and stats.inserts == 0
    one = MEDLM(mask_steps=3, edit_steps=1, max_length=9, **IDS)
    ids, stats = run(5, 6, policy=one)
    assert ids == [6, 5, 6, 5, 5, 5, 5, 5] and (stats.inserts, stats.forwards) == (2, 4)
    ids, stats = run(5, 5, policy=MEDLM(mask_steps=48, edit_steps=4, **IDS))
    assert ids == [5] * 6 and stats.forwards == 6 + 2  # a mask each; then the EOS, and nothing
    ids, stats = run(5, 5, policy=MEDLM(mask_steps=2, edit_steps=0, **IDS))
    assert ids == [5] * 6 and stats.forwards == 2
    assert run(5, 5, max_new_tokens=0)[0] == []
    ids, _ = run(DEL, 5, prompt=(), draft=[6, 7], max_new_tokens=2)
    assert ids == []


def test_an_eos_of_the_request_is_written_and_ends_it():
    """Where the policy leaves it open, it is that of the config, of the model, of the tokenizer."""
    policy = MEDLM(mask_steps=2, edit_steps=2)
    decoder = Decoder(says(5, 5), family=FULL, config=DecodeConfig(policy=policy))
    out = decoder.generate([[4]], max_new_tokens=4, eos_token_id=6, policy=MEDLM(edit_steps=0))
    assert lists(out) == [[5] * 4]
    out = decoder.generate([[4]], draft=[7, 7], eos_token_id=6, policy=MEDLM(edit_steps=0))
    assert lists(out) == [[7, 7, 6]]
    wants = Decoder(says(6, 6), family=FULL, config=DecodeConfig(policy=policy))
    out = wants.generate([[4]], max_new_tokens=4, eos_token_id=6)
    assert lists(out) == [[6]] and out.stats[0].finish_reason == "eos"


@pytest.fixture(scope="module")
def llada():
    """The golden LLaDA, and an untrained head whose tokens are others than the first one's."""
    model = loaded("llada").model
    head = NextTokenHead.of(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        head.out.weight.copy_(torch.randn(head.out.weight.shape, generator=generator))
    return model, head


def real(llada, tokenizer=None, **options) -> Decoder:
    model, head = llada
    policy = MEDLM(mask_steps=4, edit_steps=5, max_length=60, delete_token_id=3)
    config = DecodeConfig(policy=policy, max_new_tokens=20, seed=3, **options)
    return Decoder(model, tokenizer, config=config, head=head)


PROMPTS = [torch.arange(5, 5 + length) for length in (3, 40, 1, 17)]


@pytest.mark.parametrize("draws", [{}, {"temperature": 1.0}], ids=str)
def test_a_real_model_decodes_a_batch_as_alone(llada, draws, monkeypatch):
    """Requests that want other lengths decode in the same lane; packed and padded are the same."""
    decoder = real(llada, **draws)
    alone = [decoder.generate(prompt, max_new_tokens=20 - i) for i, prompt in enumerate(PROMPTS)]
    configs = [decoder.config.replace(max_new_tokens=20 - i) for i in range(len(PROMPTS))]
    for batch in (2, 4):
        out = decoder.generate(PROMPTS, config=configs, max_batch=batch)
        assert lists(out) == [lists(each)[0] for each in alone]
        assert out.stats == [each.stats[0] for each in alone]
    assert sum(stats.inserts for stats in out.stats) > 10
    assert len(decoder._kept.engine.lanes) == 1
    plain = decoder.generate(PROMPTS, config=configs, cache="none")
    assert lists(plain) == lists(out)
    monkeypatch.setattr(packed, "serves", lambda *_: False)
    padded = decoder.generate(PROMPTS, config=configs, max_batch=4)
    assert lists(padded) == lists(out) and padded.stats == out.stats


def test_forwards_take_the_rows_that_there_are(llada):
    """One row, as long as the texts are by now, and of these the heads have what may change; the
    second one is called in the edit phase alone."""
    model, head = llada
    widths, called = [], []
    hooks = [
        model.register_forward_pre_hook(
            lambda _, args, named: widths.append(named["input_ids"].shape), with_kwargs=True
        ),
        head.register_forward_hook(lambda _, args, out: called.append(out.shape[:2])),
    ]
    events = list(real(llada).stream(PROMPTS[0], drafts=True))
    real(llada).generate(PROMPTS)
    for hook in hooks:
        hook.remove()
    drafts = [event for event in events if event.kind == "draft"]
    begins = [20, *(len(draft.ids) for draft in drafts[:-1])]
    alone, edits = len(begins), len(begins) - 4
    assert widths[:alone] == [(1, 3 + length) for length in begins]
    assert called[:edits] == [(1, 1 + length) for length in begins[4:]]
    prompts = sum(map(len, PROMPTS))
    assert widths[alone : alone + 4] == [(1, prompts + 4 * 20)] * 4
    # Of a prompt, the last token is among them, since it says what comes first.
    assert widths[alone + 4][1] - called[edits][1] == prompts - 4
    assert {rows for rows, _ in widths + called} == {1}


KINDS = [
    {"max_new_tokens": 20},
    {"max_new_tokens": 7, "temperature": 0.8, "seed": 5},
    {"draft": list(range(20, 31)), "policy": MEDLM(edit_steps=3, delete_token_id=3)},
    {"draft": [30, 191, 31, 191, 191, 40], "max_new_tokens": 30},
    {"max_new_tokens": 12, "policy": MEDLM(mask_steps=12, edit_steps=2, per_step=1)},
]
PROGRAM = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, len(KINDS) - 1)),
        st.tuples(st.just("step"), st.integers(1, 9)),
        st.tuples(st.just("abort"), st.integers(0, 5)),
    ),
    min_size=4,
    max_size=12,
)


@pytest.fixture(scope="module")
def alone(llada):
    """What each kind of request of each prompt gives by itself: ids and stats."""
    known = {}

    def of(which: int, kind: int):
        if (which, kind) not in known:
            out = real(llada).generate(PROMPTS[which], **KINDS[kind])
            known[which, kind] = out.sequences[0].tolist(), out.stats[0]
        return known[which, kind]

    return of


@settings(max_examples=8, deadline=None)
@given(program=PROGRAM, max_batch=st.integers(1, 3))
@example(
    program=[("add", i % 4, i) for i in range(5)] + [("step", 6), ("abort", 1), ("add", 1, 3)],
    max_batch=3,
)
@pytest.mark.filterwarnings("ignore:temperature")
def test_any_request_gives_what_it_gives_alone(llada, alone, program, max_batch):
    added, events = [], []
    with real(llada).engine(max_batch=max_batch) as living:
        for what, *values in program:
            if what == "add":
                which, kind = values
                added.append(values)
                assert living.add(PROMPTS[which], **KINDS[kind]) == len(added) - 1
            elif what == "step":
                events += [event for _ in range(values[0]) for event in living.step()]
            elif values[0] < len(added):
                living.abort(values[0])
        while not living.idle:
            events += living.step()
        check_empty(living)
    own = by_request(events)
    for number, values in enumerate(added):
        ids, stats = alone(*values)
        end = own[number][-1].stats
        if end.finish_reason == "aborted":
            assert ids_of(own[number]) in ([], ids)
        else:
            assert ids_of(own[number]) == ids and end == stats


@pytest.mark.parametrize("packs", [False, True])
def test_bad_logits_end_the_texts_that_have_them(packs):
    """In the second forward of the edit phase, where a 9 stands behind the prompt."""
    decoder = scripted(MEDLM(mask_steps=4, edit_steps=6, **IDS), packs=packs, max_new_tokens=18)
    taken = []

    def spoil(model, args, named, out):
        taken.append(out)
        if len(taken) == 6:
            out.logits[..., 5].masked_fill_(named["input_ids"] == 9, torch.nan)

    hook = decoder.model.register_forward_hook(spoil, with_kwargs=True)
    with decoder.engine() as living:
        for prompt in ([7], [7, 9, 11, 12, 4], [8, 8]):
            living.add(torch.tensor(prompt))
        ends = []
        while not living.idle:
            ends += [event for event in living.step() if event.kind == "end"]
    hook.remove()
    errors = [str(event.error).partition(";")[0] for event in ends if event.error]
    bad = "bad logits (NaN, +inf or nothing finite) at position"
    assert errors == [f"request 0: {bad} 6", f"request 1: {bad} 18"]
    assert [event.stats.finish_reason for event in ends] == ["error", "error", "length"]


def test_a_shortage_of_memory_changes_nothing(llada):
    decoder = real(llada)
    want = lists(decoder.generate(PROMPTS))
    calls = 0

    def short(module, args, named):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise torch.OutOfMemoryError("out of memory")

    hook = llada[0].register_forward_pre_hook(short, with_kwargs=True)
    try:
        assert lists(decoder.generate(PROMPTS)) == want
    finally:
        hook.remove()


def test_what_does_not_go_together(llada):
    model, head = llada
    with pytest.raises(ValueError, match="needs a second head"):
        Decoder(model).generate([[5]], policy="me_dlm")
    with pytest.raises(ValueError, match="needs logits of the next token"):
        Decoder(lambda **inputs: model(**inputs), family=FULL).generate([[5]], policy="me_dlm")
    with pytest.raises(ValueError, match="full attention"):
        Decoder(says(5, 5)).generate([[5]], policy="me_dlm", mask_token_id=MASK)
    for options in ({"cache": "dual"}, {"strict_reference": True}):
        with pytest.raises(ValueError, match="policy me_dlm"):
            Decoder(model, head=head).generate([[5]], policy="me_dlm", **options)
    with pytest.raises(ValueError, match="no 500"):
        real(llada).generate([[5]], policy=MEDLM(delete_token_id=500))
    for name in ("pad_token_id", "eos_token_id"):
        with pytest.raises(ValueError, match=f"{name}=500 .* no id of this model"):
            real(llada).generate([[5]], policy=MEDLM(**{name: 500}))
        with pytest.raises(ValueError, match=f"both the mask token and {name}"):
            scripted(MEDLM(**{name: MASK})).generate([[5]])
    with pytest.raises(ValueError, match="stands for no text"):
        real(llada).generate([[5]], draft=[6, 3])
