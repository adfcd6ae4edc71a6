"""Which ids mask and end a sequence."""

from types import SimpleNamespace as Names

import pytest
from tokenizers_of_all_kinds import BOUNDED, unknown

from fastedit.prompts.tokens import id_of, resolve_eos, resolve_mask


def model(generation=None, **config):
    return Names(config=Names(**config), generation_config=generation)


def test_the_mask_comes_from_the_override_then_the_model_then_the_tokenizer(tokenizer):
    full, bare = model(mask_token_id=7, vocab_size=300), model(vocab_size=300)
    assert resolve_mask(5, full, tokenizer) == 5
    assert resolve_mask(None, full, tokenizer) == 7
    assert resolve_mask(None, bare, tokenizer) == 257  # the text <|mask|>
    assert resolve_mask(None, bare, Names(mask_token_id=9)) == 9
    assert resolve_mask(0, full, None) == 0
    assert resolve_mask(None, model(mask_token_id=0), tokenizer) == 0


@pytest.mark.parametrize("kind", [*BOUNDED.values(), unknown])
def test_a_token_is_found_by_its_text_as_in_the_whole_vocabulary(kind):
    tokenizer = kind()
    vocabulary = tokenizer.get_vocab()
    for text in (*vocabulary, "<|mask|>", "no token", ""):
        assert id_of(tokenizer, text) == vocabulary.get(text), text


@pytest.mark.parametrize("raised", [KeyError, ValueError])
def test_tokenizers_may_raise_for_what_is_no_token(raised):
    def refuse(text):
        raise raised(text)

    tokenizer = Names(convert_tokens_to_ids=refuse, convert_ids_to_tokens=str)
    assert id_of(tokenizer, "<|mask|>") is None
    with pytest.raises(ValueError, match="mask_token_id"):
        resolve_mask(None, model(vocab_size=300), tokenizer)
    assert id_of(Names(get_vocab=lambda: {"<|mask|>": 3}), "<|mask|>") == 3
    assert id_of(Names(), "<|mask|>") is None


@pytest.mark.parametrize("named", [model(), model(mask_token_id=None), Names(), lambda: None])
def test_a_mask_that_nothing_names_is_an_error_never_a_guess(named):
    with pytest.raises(ValueError, match="mask_token_id"):
        resolve_mask(None, named, None)


def test_the_override_replaces_every_other_eos(tokenizer):
    named = model(eos_token_id=3, vocab_size=300)
    assert resolve_eos(4, named, tokenizer) == {4}
    assert resolve_eos([4, 5], named, tokenizer) == {4, 5}
    assert resolve_eos([], named, tokenizer) == set()
    assert resolve_eos(0, named, tokenizer) == {0}


def test_eos_ids_of_model_generation_config_and_tokenizer_all_end_a_sequence(tokenizer):
    named = model(generation=Names(eos_token_id=[1, 2]), eos_token_id=3, vocab_size=300)
    assert resolve_eos(None, named, tokenizer) == {1, 2, 3, 256, 258}
    assert resolve_eos(None, named, None) == {1, 2, 3}
    assert resolve_eos(None, model(), None) == set()
    assert resolve_eos(None, model(eos_token_id=0), None) == {0}
