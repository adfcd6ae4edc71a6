"""What a Decoder does for LLaDA2.x, it does for every family: alone, together, in every way in."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from every_family import NAMES, decoder, mask_of, vocab_of
from golden_families import loaded

import fastedit
from fastedit import Decoder, policies
from fastedit.integrations.transformers import generate

NEW = 13  # no multiple of any block length
LENGTHS = (5, 1, 21, 12)
pytestmark = pytest.mark.filterwarnings("ignore:block_length=")
ALL = pytest.mark.parametrize("name", NAMES)
WHOLE = ("llada", "llada_moe", "dream")  # full attention


def prompts_of(name: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, vocab_of(name) - 30, (n,), generator=generator) for n in LENGTHS]


def ids(out) -> list[list[int]]:
    return [sequence.tolist() for sequence in out.sequences]


def alone(made: Decoder, prompts, **options) -> list[list[int]]:
    return [ids(made.generate(prompt, **options))[0] for prompt in prompts]


def padded(prompts, fill: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    filled = torch.full((len(prompts), width), fill)
    mask = torch.zeros_like(filled)
    for row, prompt in enumerate(prompts):
        own = slice(width - len(prompt), None) if left else slice(len(prompt))
        filled[row, own], mask[row, own] = prompt, 1
    return filled, mask


@ALL
def test_it_decodes_as_it_was_released_without_any_option(name):
    """But for the mask of one, whose files name none that a tiny vocabulary has."""
    made = decoder(name, released=True)
    out = made.generate("hello there", max_new_tokens=NEW)
    assert made.family == loaded(name).family
    assert len(out.sequences[0]) == out.stats[0].tokens <= NEW
    assert mask_of(name) not in ids(out)[0] and isinstance(out.texts[0], str)
    recomputed = made.generate("hello there", max_new_tokens=NEW, cache="none")
    assert ids(recomputed) == ids(out)


@ALL
def test_together_as_alone_in_every_order_and_padding(name):
    made, prompts = decoder(name), prompts_of(name)
    want = alone(made, prompts, max_new_tokens=NEW)
    assert len({tuple(row) for row in want}) > 1
    for options in ({"max_batch": 2}, {"lookahead": True}):
        assert ids(made.generate(prompts, max_new_tokens=NEW, **options)) == want, options
    for left in (False, True):  # what is padded may be anything, a mask too
        filled, mask = padded(prompts, mask_of(name), left)
        assert ids(made.generate(filled, mask, max_new_tokens=NEW)) == want
    for read in (prompts, iter(prompts)):
        found = {r.index: r.sequence.tolist() for r in made.as_completed(read, max_new_tokens=NEW)}
        assert [found[index] for index in range(len(want))] == want


@ALL
@pytest.mark.parametrize("most", [0, 1, 33])
def test_as_many_tokens_as_are_asked_for(name, most):
    made, prompts = decoder(name), prompts_of(name)[:3]
    out = made.generate(prompts, max_new_tokens=most, eos_token_id=[])
    assert [len(sequence) for sequence in out.sequences] == [most] * 3
    assert [stats.finish_reason for stats in out.stats] == ["length"] * 3
    assert all(mask_of(name) not in sequence for sequence in ids(out))


@ALL
def test_draws_follow_the_seed_and_not_the_batch(name):
    made, prompts = decoder(name), prompts_of(name)
    options = {"max_new_tokens": 9, "temperature": 1.5, "top_k": 40, "eos_token_id": []}
    together = ids(made.generate(prompts, seed=[1, 2, 3, 4], **options))
    for seed, (prompt, want) in enumerate(zip(prompts, together, strict=True), 1):
        assert ids(made.generate(prompt, seed=seed, **options)) == [want]
    assert ids(made.generate(prompts, seed=[5, 6, 7, 8], **options)) != together


@ALL
def test_an_end_in_the_first_block_ends_it(name):
    made, prompt = decoder(name), prompts_of(name)[0]
    whole = alone(made, [prompt], max_new_tokens=NEW, eos_token_id=[])[0]
    for place in (0, 2):
        end = whole.index(whole[place])
        out = made.generate(prompt, max_new_tokens=NEW, eos_token_id=[whole[place]])
        assert ids(out) == [whole[: end + 1]] and out.stats[0].finish_reason == "eos"


@ALL
def test_a_stop_text_in_the_middle_of_a_block(name):
    made = decoder(name)
    options = {"max_new_tokens": NEW, "eos_token_id": []}
    out = made.generate("hello there", **options)
    text, sequence = out.texts[0], ids(out)[0]
    stop = text[2:4]
    ended = made.generate(["hello there", "what else"], stop=stop, **options)
    assert ended.texts[0] == text[: text.index(stop)]
    assert ended.stats[0].finish_reason == "stop"
    kept = ids(ended)[0]
    assert kept == sequence[: len(kept)] and 0 < len(kept) < NEW
    events = list(made.stream("hello there", stop=stop, **options))
    assert "".join(event.text for event in events) == ended.texts[0]


@ALL
def test_a_stream_is_what_generate_returns_with_and_without_drafts(name):
    made = decoder(name)
    out = made.generate("hello there", max_new_tokens=NEW, eos_token_id=[])
    stats = out.stats[0]
    for drafts in (False, True):
        *events, end = made.stream("hello there", drafts, max_new_tokens=NEW, eos_token_id=[])
        commits = [event for event in events if event.kind == "commit"]
        assert [token for event in commits for token in event.ids] == ids(out)[0]
        assert "".join(event.text for event in commits) == out.texts[0]
        assert end.stats.forwards == stats.forwards and end.stats.finish_reason == "length"
        shown = [event for event in events if event.kind == "draft"]
        assert bool(shown) == drafts
    masks = [event.ids.count(mask_of(name)) for event in shown]
    assert masks[-1] == 0 < max(masks)


@ALL
@pytest.mark.parametrize("keep", [False, True])
def test_a_draft_is_filled_and_what_it_holds_stays(name, keep):
    """The released rules of these families change no token."""
    made, mask = decoder(name), mask_of(name)
    draft = torch.tensor([4, mask, mask, 8, mask, 9])
    drafts = [draft, draft[1:4], None, draft]
    prompts = [*prompts_of(name)[:3], torch.empty(0, dtype=torch.int64)]
    options = {"max_new_tokens": 9, "eos_token_id": [], "keep_draft": keep}
    together = ids(made.generate(prompts, draft=drafts, **options))
    for prompt, given, found in zip(prompts, drafts, together, strict=True):
        assert len(found) == 9 and mask not in found
        if given is not None:
            assert ids(made.generate(prompt, draft=[given], **options)) == [found]
            pairs = zip(given.tolist(), found, strict=False)
            assert all(old in (new, mask) for old, new in pairs)
    short = made.generate(prompts[0], draft=[draft], keep_draft=keep, eos_token_id=[])
    assert len(short.sequences[0]) == len(draft)
    text = made.generate("one ", draft="<|mask|> two <|mask|>", keep_draft=keep, eos_token_id=[])
    assert text.texts[0][1:-1] == " two " or " two " in text.texts[0]


@ALL
def test_what_cannot_be_decoded_is_told_before_a_forward_and_alone(name):
    made, mask = decoder(name), mask_of(name)
    positions = made.model.config.max_position_embeddings
    bad = {
        f"mask token {mask}": [1, mask, 2],
        "outside the model's vocabulary": [vocab_of(name)],
        f"the model has {positions}": [1] * (positions - NEW + 1),
        "is empty": [],
    }
    for words, prompt in bad.items():
        with pytest.raises((TypeError, ValueError), match=words) as raised:
            made.generate([torch.tensor(prompt, dtype=torch.int64)], max_new_tokens=NEW)
        assert "\n" not in str(raised.value)
    good = prompts_of(name)[0]
    asked = [good, *(torch.tensor(p, dtype=torch.int64) for p in bad.values()), good]
    out = made.generate(asked, max_new_tokens=NEW, errors="return")
    for words, error in zip(bad, out.errors[1:-1], strict=True):
        assert words in str(error)
    assert ids(out)[0] == ids(out)[-1] == alone(made, [good], max_new_tokens=NEW)[0]
    assert out.errors[0] is out.errors[-1] is None


@ALL
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block_length": 0}, "block_length must be an integer of at least 1"),
        ({"block_length": 5000}, "longer than the model's 4096 positions"),
        ({"policy": "low_confidense"}, "policy must be one of"),
        ({"editing_threshold": 0.5}, "editing_threshold=0.5 is not of policy low_confidence"),
        ({"policy": "low_confidence:steps=3", "steps": 4}, "disagree"),
        ({"cache": "dula"}, "cache must be one of"),
        ({"mask_token_id": 9999}, "mask_token_id=9999"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words) as raised:
        decoder(name).generate([[1, 2, 3]], max_new_tokens=4, **options)
    assert "\n" not in str(raised.value)


@ALL
def test_approximate_caches_are_for_full_attention(name):
    made, prompts = decoder(name), prompts_of(name)
    for cache in ("prefix", "dual"):
        options = {"cache": cache, "max_new_tokens": NEW}
        if name not in WHOLE:
            with pytest.raises(ValueError, match="full attention"):
                made.generate(prompts, **options)
            continue
        out = made.generate(prompts, lookahead=True, **options)
        assert ids(out) == alone(made, prompts, **options)
        assert all(stats.approximate for stats in out.stats)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *((name, {"steps": 1}) for name in NAMES),
        *((name, {"threshold": 0.01}) for name in NAMES if name != "dream"),  # which has none
    ],
)
def test_what_is_given_goes_before_the_rule_of_the_family(name, given):
    made, prompt = decoder(name), prompts_of(name)[0]
    rule = policies.parse(made.family.policy)
    options = {"max_new_tokens": NEW, "eos_token_id": []}
    found = made.generate(prompt, **given, **options)
    spelled = made.generate(prompt, policy=dataclasses.replace(rule, **given), **options)
    assert ids(found) == ids(spelled)
    assert found.stats[0].forwards == spelled.stats[0].forwards
    assert found.stats[0].forwards < made.generate(prompt, **options).stats[0].forwards


@ALL
def test_requests_of_all_kinds_come_and_go_in_one_engine(name):
    made, rng = decoder(name), random.Random(3)
    kinds = [{}, {"policy": "confidence:threshold=0.3"}, {"temperature": 1.0, "seed": 5}]
    kinds += [{"cache": "none"}, {"policy": "remask"}, {"block_length": 5}]
    if name in WHOLE:
        kinds += [{"cache": "prefix"}, {"cache": "dual", "policy": "confidence"}]
    base = made.config.replace(max_new_tokens=6, eos_token_id=[])
    prompts = prompts_of(name)[:2]
    known: dict[tuple[int, int], list[int]] = {}
    got: dict[int, list[int]] = {}
    asked, ended, aborted = {}, {}, set()
    with made.engine(max_batch=4) as engine:
        while len(asked) < 30 or not engine.idle:
            if len(asked) < 30 and rng.random() < 0.6:
                what = rng.randrange(len(prompts)), rng.randrange(len(kinds))
                config = base.replace(**kinds[what[1]])
                number = engine.add(prompts[what[0]], config, rng.random() < 0.3)
                asked[number], got[number] = what, []
            if asked and rng.random() < 0.05:
                aborted.add(number := rng.choice(sorted(asked)))
                engine.abort(number)
            for event in engine.step():
                assert event.request not in ended
                if event.kind == "commit":
                    got[event.request] += event.ids
                elif event.kind == "end":
                    ended[event.request] = event
    for number, what in asked.items():
        reason = ended[number].stats.finish_reason
        if what not in known:
            config = base.replace(**kinds[what[1]])
            known[what] = ids(made.generate(prompts[what[0]], config=config))[0]
        if reason == "aborted":
            assert number in aborted
            assert got[number] == known[what][: len(got[number])]
        else:
            assert reason == "length" and got[number] == known[what], kinds[what[1]]
    assert len(known) > 8 and any(e.stats.finish_reason == "aborted" for e in ended.values())


@ALL
def test_custom_generate_is_the_decoder_with_the_prompt_in_front(name):
    made, prompts = decoder(name), prompts_of(name)
    options = {"max_new_tokens": NEW, "mask_token_id": mask_of(name)}
    if made.config.gives("block_length"):
        options["block_length"] = made.config.block_length
    want = alone(made, prompts, max_new_tokens=NEW)
    filled, mask = padded(prompts, 0, left=True)
    asked = {"attention_mask": mask, "custom_generate": generate, **options}
    out = made.model.generate(filled, **asked)
    for row, new in zip(out[:, filled.shape[1] :].tolist(), want, strict=True):
        pad = made.model.config.eos_token_id
        assert row == new + [pad] * (len(row) - len(new))
    drawn = made.model.generate(
        filled, do_sample=True, temperature=1.0, top_k=0, seed=3, num_return_sequences=2, **asked
    )
    rows = drawn[:, filled.shape[1] :].tolist()
    for place, prompt in enumerate(prompts):
        for copy in (0, 1):
            ours = ids(made.generate(prompt, temperature=1.0, seed=3 + copy, max_new_tokens=NEW))[0]
            assert rows[2 * place + copy][: len(ours)] == ours
    with pytest.raises(ValueError, match=r"fastedit\.Decoder"):
        made.model.generate(filled)


@ALL
def test_patch_is_for_the_one_family_whose_generate_was_released(name):
    model = decoder(name).model
    with pytest.raises(ValueError, match="this model is ") as raised:
        fastedit.patch(model)
    assert "\n" not in str(raised.value) and "generate" not in vars(model)
