"""Which keys may be left unread."""

from __future__ import annotations

import pytest

from fastedit.files.keys import is_note, refuse_unread


@pytest.mark.parametrize(
    "name",
    "id source metadata uuid prompt_id data_source source_url created_at _row meta_score idx "
    "category num_turns token_count difficulty".split(),
)
def test_notes(name):
    assert is_note(name)
    refuse_unread({name: 1}, ())


@pytest.mark.parametrize(
    "name",
    "weight train loss mask loss_mask tools tool_calls system input reasoning_content functions "
    "function_call name context chosen rejected conversations images audio stop_token_ids "
    "allowed_token_ids bad_words_ids num_beams num_return_sequences max_time length n seed "
    "instruction history documents prefix suffix label thinking".split(),
)
def test_keys_that_change_the_meaning(name):
    assert not is_note(name)
    with pytest.raises(ValueError, match=f"`{name}` would be left unread: "):
        refuse_unread({"id": 1, name: 0}, ("text",))
    refuse_unread({name: 0}, (name,))
    refuse_unread({name: None}, ())
    refuse_unread({name: []}, ())
