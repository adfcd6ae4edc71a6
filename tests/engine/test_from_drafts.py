"""Decoding from a draft: masks are filled, tokens are worked on or kept, whatever decodes it."""

from __future__ import annotations

import math

import pytest
import torch
from cases import DRAWN, GOLDEN, PROMPTS, B, results
from every_policy import GIVEN, VARIABLE, small
from fakes import ScriptedModel, hashed, one_hot, saying
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_loop import decode

from fastedit import Decoder, policies
from fastedit.engine import engine
from fastedit.models import Family
from fastedit.policies import POLICIES

V, MASK, EOS = 7, 6, 5
IDS = {"mask_token_id": MASK, "eos_token_id": EOS, "use_cache": False}
# Of the golden model, whose mask is 127.
M = GOLDEN["mask_token_id"]
OPTIONS = {name: GOLDEN[name] for name in ("mask_token_id", "block_length", "seed")}
OPTIONS |= {"eos_token_id": []}
NOTHING = torch.empty(0, dtype=torch.int64)


def a_draft(length: int, seed: int = 0) -> torch.Tensor:
    """Random tokens, four in ten of them masks."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(7, 120, (length,), generator=generator)
    return ids.masked_fill(torch.rand(length, generator=generator) < 0.4, M)


DRAFTS = [a_draft(length, length) for length in (21, 5, 8, 30, 17)]


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    prompt=st.lists(st.integers(0, 4), max_size=9),
    draft=st.lists(st.sampled_from([0, 1, 2, 3, 4, MASK, MASK, EOS]), min_size=1, max_size=11),
    behind=st.integers(0, 5),
    options=st.fixed_dictionaries(
        {
            "block_length": st.sampled_from([1, 2, 4, 5]),
            "threshold": st.sampled_from([0.0, 0.5, 1.0]),
            "editing_threshold": st.sampled_from([None, 0.0, 0.3, 1.0]),
            "max_post_steps": st.sampled_from([1, 2, 16]),
            "num_to_transfer": st.integers(1, 6),
            "eos_early_stop": st.booleans(),
            "keep_draft": st.booleans(),
        }
    ),
)
def test_a_draft_is_decoded_as_the_oracle_does(seed, prompt, draft, behind, options):
    rule, length = hashed(V, MASK, seed), len(draft) + behind
    ids = {"mask_token_id": MASK, "eos_token_id": EOS}
    want = decode(rule, prompt, draft=draft, max_new_tokens=length, **ids, **options)
    given = {"max_new_tokens": length} if behind else {}
    out = Decoder(ScriptedModel(V, rule)).generate([prompt], draft=draft, **IDS, **given, **options)
    stats = out.stats[0]
    assert out.sequences[0].tolist() == want.sequence
    assert (stats.forwards, stats.m2t_commits, stats.t2t_edits, stats.finish_reason) == (
        want.forwards,
        want.m2t,
        want.t2t,
        want.reason,
    )
    kept = zip(want.sequence, draft, strict=False)
    if options["keep_draft"] or options["editing_threshold"] is None:
        assert all(ours == theirs for ours, theirs in kept if theirs != MASK)


def by_hand(model, rule, prompt, draft, keep, seed):
    """The rule on one block after the other, in a loop of our own over the whole canvas."""
    span = -(-(len(prompt) + len(draft)) // B) * B
    ids = torch.full((span,), MASK)
    ids[: len(prompt)] = prompt
    ids[len(prompt) : len(prompt) + len(draft)] = draft
    may = torch.arange(span) >= len(prompt)
    if keep:
        may[len(prompt) : len(prompt) + len(draft)] = draft == MASK
    for start in range(len(prompt) // B * B, span, B):
        block = slice(start, start + B)
        state = policies.open(
            rule, ids[None, block], may[None, block], mask_token_id=MASK, seed=seed, start=start
        )
        state.vocab = V
        blank = (state.ids == MASK) & state.editable
        state.ids.copy_(torch.where(blank, rule.open(state), state.ids))
        while not state.done:
            seen = torch.cat((ids[:start], state.shown()[0]))[None]
            shape = (1, 1, start + B, start + B)
            logits = model(
                input_ids=seen,
                attention_mask=torch.ones(shape, dtype=torch.bool),
                position_ids=torch.arange(start + B)[None],
                past_key_values=None,
                use_cache=False,
            ).logits
            policies.step_(state, logits[:, block])
        ids[block] = state.ids[0]
    return ids[len(prompt) : len(prompt) + len(draft)].tolist()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_starts_from_the_draft(name, keep):
    if POLICIES[name].plan != "block" or POLICIES[name]().needs & {"score", "next_token"}:
        pytest.skip("needs more than the logits of its block")
    given = {"delete_token_id": 5, "insert_token_id": 4} if POLICIES[name].rewrites else {}
    rule = POLICIES[name](**given)
    model = ScriptedModel(V, hashed(V, MASK, 3))
    draft = torch.tensor([1, MASK, MASK, 2, 3, MASK, 3, 0, 1, MASK, 2, 2, 3])
    for prompt in (torch.tensor([1, 2, 3]), NOTHING):
        want = by_hand(model, rule, prompt, draft, keep, seed=9)
        options = IDS | {"policy": rule, "seed": 9, "block_length": B, "eos_token_id": []}
        out = Decoder(model).generate(prompt, draft=draft, keep_draft=keep, **options)
        assert out.sequences[0].tolist() == want and MASK not in want
        if keep or not rule.judges_tokens:
            assert all(a == b for a, b in zip(want, draft.tolist(), strict=True) if b != MASK)


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - VARIABLE))
def test_a_block_in_which_nothing_may_change_takes_one_forward(golden_model, name):
    draft = torch.arange(7, 7 + 3 * B)
    decoder = Decoder(golden_model)
    rule = small(name) if name in GIVEN else name
    out = decoder.generate(NOTHING, draft=draft, keep_draft=True, policy=rule, **OPTIONS)
    assert out.sequences[0].equal(draft)
    stats = out.stats[0]
    assert (stats.forwards, stats.m2t_commits, stats.t2t_edits, stats.remasks) == (3, 0, 0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "low_confidence"},
        {"policy": "low_confidence:schedule=dream"},
        {"editing_threshold": None},
        {"max_post_steps": 0},
        {"threshold": 0.5, "editing_threshold": None, "max_post_steps": 0, "lookahead": True},
        {"strict_reference": True, "editing_threshold": None},
        {"strict_reference": True, "max_post_steps": 0},
    ],
    ids=str,
)
def test_a_block_without_a_mask_takes_one_forward_where_nothing_is_judged(golden_model, options):
    draft = torch.arange(7, 7 + 3 * B)
    out = Decoder(golden_model).generate([[]], draft=draft, **OPTIONS, **options)
    assert out.sequences[0].equal(draft)
    stats = out.stats[0]
    assert (stats.m2t_commits, stats.t2t_edits) == (0, 0)
    assert stats.forwards == (2 if options.get("lookahead") else 3)


KINDS = [
    {"max_post_steps": 4},
    {"max_post_steps": 4, "lookahead": True},
    DRAWN | {"max_post_steps": 4},
    {"policy": "remask:max_post_steps=1"},
    {"policy": "entropy_bound:steps=5"},
    {"policy": "low_confidence"},
    {"strict_reference": True, "threshold": 0.5, "editing_threshold": 0.9, "max_post_steps": 4},
]


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize(
    ("kind", "keep"),
    [(KINDS[0], False), *((kind, n % 2 == 0) for n, kind in enumerate(KINDS))],
    ids=str,
)
def test_drafts_in_a_batch_are_decoded_as_alone_and_cached_as_not(golden_model, kind, keep):
    decoder, options = Decoder(golden_model), OPTIONS | {"max_new_tokens": 22} | kind
    drafts = [DRAFTS[0], None, DRAFTS[2]]
    prompts = [NOTHING, *PROMPTS[1:3]]
    together = decoder.generate(prompts, draft=drafts, keep_draft=keep, **options)
    got = [ids.tolist() for ids in together.sequences]
    for prompt, draft, ids in zip(prompts, drafts, got, strict=True):
        given = {} if draft is None else {"draft": draft, "keep_draft": keep}
        alone = decoder.generate([prompt], **given, **options)
        assert alone.sequences[0].tolist() == ids and len(ids) == 22
        if keep and draft is not None:
            kept = zip(ids, draft.tolist(), strict=False)
            assert all(ours == theirs for ours, theirs in kept if theirs != M)
    plain = options | {"cache": "none", "lookahead": False}
    uncached = decoder.generate(prompts, draft=drafts, keep_draft=keep, **plain)
    assert [ids.tolist() for ids in uncached.sequences] == got


def test_without_a_length_each_is_as_long_as_its_draft(golden_model):
    options = OPTIONS | {"policy": "low_confidence"}
    out = Decoder(golden_model).generate(PROMPTS, draft=[*DRAFTS[:4], None], **options)
    assert [len(ids) for ids in out.sequences] == [21, 5, 8, 30, 256]
    masks = [int((draft == M).sum()) for draft in DRAFTS]
    for ids, draft, stats, count in zip(out.sequences, DRAFTS[:4], out.stats, masks, strict=False):
        assert ids[draft != M].equal(draft[draft != M])
        assert stats.m2t_commits >= count and stats.t2t_edits == stats.remasks == 0


@pytest.mark.filterwarnings("ignore:temperature")
@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(
    "kind", [DRAWN | {"max_post_steps": 2}, {"policy": "entropy_bound:steps=5"}]
)
def test_behind_a_shortage_of_memory_the_draft_is_still_there(
    golden_model, monkeypatch, delay, kind
):
    monkeypatch.setitem(engine.DELAY, "cpu", delay)
    options = OPTIONS | kind | {"draft": DRAFTS[:3], "keep_draft": True}

    class Short:
        def __init__(self, at):
            self.calls, self.at, self.config = 0, at, golden_model.config
            self.parameters = golden_model.parameters

        def __call__(self, **inputs):
            self.calls += 1
            if self.calls == self.at:
                raise torch.OutOfMemoryError("out of memory")
            return golden_model(**inputs)

    model = Short(at=0)
    want = results(Decoder(model).generate(PROMPTS[:3], **options))
    for at in range(2, model.calls, model.calls // 3):
        assert results(Decoder(Short(at)).generate(PROMPTS[:3], **options)) == want


@pytest.mark.parametrize("blocks", ["aligned", "after_prompt"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_model_of_full_attention_sees_what_stands_behind_the_hole(blocks, shift):
    """Each position says the last id of the canvas, wherever its block ends."""

    class Last(ScriptedModel):
        def __call__(self, *, input_ids, attention_mask, **_):
            self.calls.append(input_ids.tolist())
            width = int(attention_mask[0, 0, 0].sum())
            out = torch.stack([torch.from_numpy(one_hot(int(input_ids[0, width - 1]), V))])
            return type("Out", (), {"logits": out.expand(1, input_ids.shape[1], V)})

    family = Family(attention="full", shift=shift, blocks=blocks, policy="low_confidence")
    decoder = Decoder(Last(V, None), family=family)
    options = {"mask_token_id": MASK, "eos_token_id": [], "block_length": 3}
    for prompt in ("", "a"):
        ids = [[1] * len(prompt)]
        out = decoder.generate(ids, draft=[MASK, 1, MASK, MASK, 2, MASK, MASK, 3, 4], **options)
        width = len(out.sequences[0])
        assert width == 9
        if (len(prompt) + 9) % 3 == 0 or blocks == "after_prompt":
            assert out.sequences[0].tolist() == [4, 1, 4, 4, 2, 4, 4, 3, 4]


def test_an_eos_ends_the_result_wherever_it_comes_from():
    say = saying([1, 2, EOS, 4, 1, 2, 3, 4], V)
    decoder = Decoder(ScriptedModel(V, say))
    filled = decoder.generate([[1]], draft=[2, MASK, 4, 1], block_length=4, **IDS)
    assert filled.sequences[0].tolist() == [2, EOS] and filled.stats[0].finish_reason == "eos"
    held = decoder.generate(
        [[1]], draft=[MASK, 3, EOS, MASK, 1], keep_draft=True, block_length=4, **IDS
    )
    assert held.sequences[0].tolist() == [2, 3, EOS]
    edited = decoder.generate([[1]], draft=[2, 3, EOS, 1], block_length=4, **IDS)
    assert edited.sequences[0].tolist() == [2, EOS]
    options = IDS | {"eos_token_id": []}
    whole = decoder.generate([[1]], draft=[2, MASK, 4, 1], block_length=4, **options)
    assert whole.sequences[0].tolist() == [2, EOS, 4, 1]
    assert whole.stats[0].finish_reason == "length"


def test_bad_logits_of_what_is_kept_do_not_matter():
    def rule(seen, i):
        return [math.nan] * V if i in (1, 6) else one_hot(2, V)

    def run(**options):
        decoder = Decoder(ScriptedModel(V, rule))
        draft = [1, MASK, MASK, 3, MASK, 3, 4]
        return decoder.generate(
            [[1]], draft=draft, errors="return", block_length=4, **IDS, **options
        )

    out = run(keep_draft=True)
    assert out.errors == [None] and out.sequences[0].tolist() == [1, 2, 2, 3, 2, 3, 4]
    assert run(policy="low_confidence").errors == [None]
    assert "position 1" in str(run().errors[0])


@pytest.mark.filterwarnings("ignore:block_length=4")
def test_what_is_streamed_is_what_is_returned():
    decoder = Decoder.from_pretrained("tiny")
    prompt, draft = "3 + ", "<|mask|><|mask|> = 12\n<|mask|>+ 4 <|mask|>"
    options = {"eos_token_id": [], "block_length": 4, "policy": "low_confidence"}
    out = decoder.generate(prompt, draft=draft, **options)
    events = list(decoder.stream(prompt, drafts=True, draft=draft, **options))
    commits = [event for event in events if event.kind == "commit"]
    ids = [token for event in commits for token in event.ids]
    assert ids == out.sequences[0].tolist() and len(commits) > 2
    assert "".join(event.text for event in commits) == out.texts[0]
    first = next(event for event in events if event.kind == "draft")
    assert set(first.ids) - {decoder.tokenizer.mask_token_id}
    (result,) = decoder.as_completed(prompt, draft=draft, keep_draft=True, **options)
    assert result.sequence.equal(out.sequences[0])
    with decoder.engine() as living:
        number = living.add(prompt, draft=draft, keep_draft=True, **options)
        other = living.add("7 + 5 =", max_new_tokens=4, **options)
        got = {number: [], other: []}
        while not living.idle:
            for event in living.step():
                if event.kind == "commit":
                    got[event.request] += event.ids
    assert got[number] == ids and len(got[other]) == 4
    assert (
        got[other] == decoder.generate("7 + 5 =", max_new_tokens=4, **options).sequences[0].tolist()
    )


def test_a_streamer_gets_an_empty_prompt_and_the_blocks(tiny_tokenizer, capsys):
    from transformers import TextStreamer

    decoder = Decoder.from_pretrained("tiny")
    out = decoder.generate(
        "", draft="1 + <|mask|> = 3", eos_token_id=[], streamer=TextStreamer(tiny_tokenizer)
    )
    assert capsys.readouterr().out.strip().startswith(out.texts[0][:4])


def test_the_embedded_model_repairs_a_sum():
    decoder = Decoder.from_pretrained("tiny")
    ask = "State the final answer to the following arithmetic problem: 27 + 45 ="
    chat, wrong = [{"role": "user", "content": ask}], "+27 = 527\n+45 = 582\n#### +082"
    out = decoder.generate(chat, draft=wrong)
    assert out.texts == [wrong.replace("8", "7")] and out.stats[0].t2t_edits == 2
    hole = wrong.replace("582", "<|mask|>" * 3).replace("082", "072")
    out = decoder.generate(chat, draft=hole, keep_draft=True, eos_token_id=[])
    assert out.texts == [wrong.replace("8", "7")] and out.stats[0].t2t_edits == 0
    kept = decoder.generate(chat, draft=wrong, keep_draft=True)
    assert kept.texts == [wrong]


def test_bad_logits_are_named_where_they_matter():
    """A token that is kept is not decided on, so what the model says of it is nobody's business."""

    def rule(seen, place):
        return [math.nan] * V if place in (1, 2) else one_hot(1, V)

    drafts = [[4, MASK, 3, 3], [3, 3, MASK, 3]]  # behind one token: positions 1 to 4
    options = IDS | {"block_length": 4, "max_post_steps": 1, "max_new_tokens": 4}
    out = Decoder(ScriptedModel(V, rule)).generate(
        [[3], [2]], draft=drafts, keep_draft=True, **options
    )
    assert out.errors[0].position == 2 and out.errors[1] is None
    assert out.sequences[1].tolist() == [3, 3, 1, 3]
