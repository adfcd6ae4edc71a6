"""Drafts in every form that they may come in, and what is refused before any model call."""

import numpy as np
import pytest
import torch
from fakes import ScriptedModel, saying

from fastedit import DecodeConfig, Decoder

V, MASK, EOS = 260, 257, 256
OPTIONS = {"block_length": 4, "use_cache": False, "eos_token_id": [], "policy": "low_confidence"}
SAID = [ord(c) for c in "abcdefghijklmnop"]
X = [SAID[1], MASK, 120, MASK]  # behind one token, the model fills in "c" and "e"
FILLED = [SAID[1], SAID[2], 120, SAID[4]]


class Untouchable:
    def __init__(self, **config):
        from types import SimpleNamespace

        self.config = SimpleNamespace(vocab_size=V, mask_token_id=MASK, **config)

    def __call__(self, **inputs):
        raise AssertionError("the model was called")


@pytest.fixture
def decoder(tokenizer):
    return Decoder(ScriptedModel(V, saying(SAID, V), mask_token_id=MASK), tokenizer)


def ids(out):
    return [sequence.tolist() for sequence in out.sequences]


@pytest.mark.parametrize(
    "form",
    [
        X,
        tuple(X),
        [X],
        torch.tensor(X),
        torch.tensor(X, dtype=torch.int32),
        torch.tensor([X]),
        [torch.tensor(X)],
        np.array(X),
        np.array([X], dtype=np.uint16),
        [np.array(X)],
        {"input_ids": X},
    ],
    ids=lambda form: f"{type(form).__name__} {np.shape(form)}",
)
def test_every_form_of_ids_is_a_draft(decoder, form):
    assert ids(decoder.generate([[0]], draft=form, **OPTIONS)) == [FILLED]


def test_a_draft_of_ids_is_not_changed_by_decoding(decoder):
    draft = torch.tensor(X)
    decoder.generate([[0]], draft=draft, **OPTIONS)
    assert draft.tolist() == X


def test_in_a_text_the_mask_token_is_a_mask_and_nothing_is_added(decoder, tokenizer):
    letters = tokenizer("bx").input_ids
    out = decoder.generate([[0]], draft="b<|mask|>x<|mask|>", **OPTIONS)
    assert ids(out) == [[letters[0], SAID[2], letters[1], SAID[4]]]
    assert ids(decoder.generate([[0]], draft=["b<|mask|>x<|mask|>"], **OPTIONS)) == ids(out)
    with_eos = decoder.generate([[0]], draft="b<eos>", **OPTIONS)
    assert ids(with_eos) == [[letters[0], EOS]]
    prompt = "b<|mask|>"  # in a prompt it is plain text
    out = decoder.generate(prompt, draft="<|mask|>" * 2, **OPTIONS)
    assert ids(out) == [SAID[9:11]]


def test_a_text_has_the_masks_of_its_tokenizer_where_the_model_has_another(tokenizer):
    from copy import deepcopy

    own = deepcopy(tokenizer)
    own.mask_token = "<note>"
    model = ScriptedModel(V, saying(SAID, V), mask_token_id=MASK)
    out = Decoder(model, own).generate([[0]], draft="<note><|mask|>b", **OPTIONS)
    assert ids(out) == [[*SAID[1:3], *tokenizer("b").input_ids]]


def test_a_mask_that_the_tokenizer_does_not_read_is_said(tokenizer):
    model = Untouchable()
    config = DecodeConfig(mask_token_id=tokenizer("q").input_ids[0])

    class Deaf:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            return {"input_ids": [1] * len(text)}

    with pytest.raises(ValueError, match=r"does not read 'q' as its mask token: give .* ids"):
        Decoder(model, Deaf(), config).generate([[0]], draft="aqb", **OPTIONS)


@pytest.mark.parametrize(
    "prompt", ["", [[]], torch.zeros(0, dtype=torch.int64), np.zeros((1, 0), dtype=int)]
)
def test_the_prompt_may_be_empty(decoder, prompt):
    out = decoder.generate(prompt, draft=[MASK, 120, MASK], **OPTIONS)
    assert ids(out) == [[SAID[0], 120, SAID[2]]]


def test_several_prompts_have_a_draft_or_none_each(decoder):
    prompts = [[0], [0, 0], [0]]
    out = decoder.generate(prompts, draft=[X, None, [MASK]], max_new_tokens=5, **OPTIONS)
    assert ids(out) == [[*FILLED, SAID[5]], SAID[2:7], SAID[1:6]]
    out = decoder.generate(prompts[:2], draft=torch.tensor([X, X]), **OPTIONS)
    assert [len(sequence) for sequence in out.sequences] == [4, 4]
    assert ids(decoder.generate(prompts[:2], draft=[None, None], max_new_tokens=2, **OPTIONS)) == [
        SAID[1:3],
        SAID[2:4],
    ]


@pytest.mark.parametrize("name", ["max_new_tokens", "gen_length"])
def test_masks_follow_where_more_is_asked_for(decoder, name):
    assert ids(decoder.generate([[0]], draft=X, **{name: 4}, **OPTIONS)) == [FILLED]
    assert ids(decoder.generate([[0]], draft=X, **{name: 6}, **OPTIONS)) == [FILLED + SAID[5:7]]
    config = DecodeConfig(**{name: 6})
    out = decoder.generate([[0]], draft=X, config=config, **OPTIONS)
    assert ids(out) == [FILLED + SAID[5:7]]
    with pytest.raises(ValueError, match="prompt 0 has 4 tokens, more than max_new_tokens=3"):
        decoder.generate([[0]], draft=X, **{name: 3}, **OPTIONS)


@pytest.mark.parametrize(
    ("draft", "error", "words"),
    [
        ([], ValueError, "the draft of prompt 0 is empty"),
        ("", ValueError, "the draft of prompt 0 is empty"),
        (torch.zeros(0, dtype=torch.int64), ValueError, "the draft of prompt 0 is empty"),
        ([3, V], ValueError, rf"draft of prompt 0 holds id {V}, outside .* \[0, {V}\)"),
        ([3, -1], ValueError, "draft of prompt 0 holds id -1, outside"),
        (torch.tensor([0.5]), TypeError, "integers"),
        ([1.5], TypeError, "draft of prompt 0: a draft must be a text or ids.*1.5"),
        ([True], TypeError, "a draft must be a text or ids"),
        (b"bytes", TypeError, "bytes"),
        (7, TypeError, "int"),
        ([{"role": "user", "content": "a"}], TypeError, "a draft must be a text or ids"),
        ([[1], [2]], ValueError, "draft has 2 entries for 1 prompts"),
        (["a", None], ValueError, "draft has 2 entries for 1 prompts"),
        (torch.ones(2, 3, dtype=torch.int64), ValueError, "draft has 2 entries for 1 prompts"),
        (torch.ones(1, 2, 3, dtype=torch.int64), ValueError, r"\[1, 2, 3\]"),
        ([1] * 16, ValueError, "1 tokens and a draft of 16; .* 17 positions, the model has 16: .*"),
    ],
    ids=str,
)
def test_what_cannot_be_a_draft_is_refused(tokenizer, draft, error, words):
    decoder = Decoder(Untouchable(max_position_embeddings=16), tokenizer)
    with pytest.raises(error, match=words):
        decoder.generate([[3]], draft=draft, **OPTIONS)
    with pytest.raises(error, match=words):
        decoder.stream([[3]], draft=draft, **OPTIONS)
    with decoder.engine() as engine:
        with pytest.raises(error, match=words):
            engine.add([[3]], draft=draft, **OPTIONS)
        assert engine.idle


def test_a_draft_for_no_or_for_each_prompt(tokenizer):
    decoder = Decoder(Untouchable(), tokenizer)
    with pytest.raises(ValueError, match=r"draft has 1 entries for 2 prompts: .*None"):
        decoder.generate([[3], [4]], draft=X, **OPTIONS)
    with pytest.raises(ValueError, match="draft has 1 entries for 0 prompts"):
        decoder.generate([], draft=X, **OPTIONS)
    with pytest.raises(ValueError, match=r"prompt 1 is empty: .* or a draft"):
        decoder.generate(["a", ""], draft=[X, None], **OPTIONS)
    with pytest.raises(ValueError, match="keep_draft=True without a draft"):
        decoder.generate("a", keep_draft=True, **OPTIONS)
    with pytest.raises(TypeError, match="keep_draft must be True or False; got 'yes'"):
        decoder.generate("a", draft=X, keep_draft="yes", **OPTIONS)
    with pytest.raises(ValueError, match="no tokenizer"):
        Decoder(Untouchable()).generate([[1]], draft="text", **OPTIONS)


def test_a_bad_draft_ends_its_own_request_where_errors_are_returned(decoder):
    drafts = [X, [V], "", None]
    options = OPTIONS | {"max_new_tokens": 4}
    out = decoder.generate([[0]] * 4, draft=drafts, errors="return", **options)
    assert [str(error)[:21] for error in out.errors if error] == [
        "the draft of prompt 1",
        "the draft of prompt 2",
    ]
    assert ids(out) == [FILLED, [], [], SAID[1:5]]
    ended = list(decoder.as_completed([[0]] * 4, draft=drafts, **options))
    assert sorted(result.index for result in ended if result.error) == [1, 2]


def test_prompts_that_are_read_on_have_drafts_that_are_read_along(decoder):
    def run(draft, **options):
        results = decoder.as_completed(iter([[0]] * 3), draft=draft, **options, **OPTIONS)
        return [result.sequence.tolist() for result in results]

    drafts = [X, None, [MASK]]
    for given in (drafts, iter(drafts), (draft for draft in [*drafts, X])):
        got = run(given, max_new_tokens=4, max_batch=1)
        assert got == [FILLED, SAID[1:5], SAID[1:5]]
    assert sorted(len(ids) for ids in run([X, [MASK], X], keep_draft=True)) == [1, 4, 4]
    for one in ("text", X, torch.tensor(X)):
        with pytest.raises(ValueError, match="in a list or an iterator: one each"):
            decoder.as_completed(iter([[0]]), draft=one, **OPTIONS)
    results = decoder.as_completed(iter([[0]] * 3), draft=[X, X], **OPTIONS)
    assert [next(results).sequence.tolist() for _ in range(2)] == [FILLED] * 2
    with pytest.raises(ValueError, match="fewer drafts than prompts"):
        next(results)
    with pytest.raises(ValueError, match="keep_draft=True without a draft"):
        decoder.as_completed(iter([[0]]), keep_draft=True, **OPTIONS)
