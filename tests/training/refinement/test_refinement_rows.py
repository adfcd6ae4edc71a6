"""Which tokens are answers, and the labels of the mask stage, as counted by hand."""

from __future__ import annotations

import pytest
import torch

from fastedit.training.noise.draws import Draws
from fastedit.training.refinement.rows import mask_labels, masked, read_answers

EOS, PAD, MASK = 0, 3, 1


def rows(*documents):
    """One row of documents (ids, response), and padding behind them."""
    ids = [i for text, _ in documents for i in text] + [EOS] * 2
    response = [bool(r) for _, learnt in documents for r in learnt] + [False] * 2
    place = [j for text, _ in documents for j in range(len(text))] + [0] * 2
    example = [10 + n for n, (text, _) in enumerate(documents) for _ in text] + [-1] * 2
    kinds = (ids, response, place, example)
    return [torch.tensor([values]) for values in kinds]


def read(*documents, pad=PAD):
    return read_answers(*rows(*documents), eos_token_id=EOS, pad_token_id=pad)


def places(flags):
    return flags[0].nonzero()[:, 0].tolist()


def test_behind_the_end_of_an_answer_there_is_padding():
    answered = [5, 6, 7, 8, EOS, EOS, EOS], [0, 0, 1, 1, 1, 1, 1]
    found = read(answered, answered)
    assert found.clean[0].tolist() == [5, 6, 7, 8, EOS, PAD, PAD] * 2 + [EOS] * 2
    assert places(found.answer) == [2, 3, 4, 5, 6, 9, 10, 11, 12, 13]
    assert places(found.opens) == [2, 9] and places(found.whole) == places(found.answer)


def test_an_end_token_in_the_prompt_ends_nothing():
    found = read(([5, EOS, 7, 8, EOS, EOS], [0, 0, 1, 1, 1, 1]))
    assert found.clean[0, :6].tolist() == [5, EOS, 7, 8, EOS, PAD]


def test_where_padding_is_the_end_nothing_is_written():
    found = read(([5, 7, 8, EOS, EOS], [0, 1, 1, 1, 1]), pad=EOS)
    assert found.clean[0, :5].tolist() == [5, 7, 8, EOS, EOS]


def test_the_last_of_several_turns_is_the_answer():
    """And so in both documents, the second of which has one turn."""
    found = read(
        ([5, 7, EOS, 5, 8, 9, EOS], [0, 1, 1, 0, 1, 1, 1]), ([5, 6, EOS, EOS], [0, 1, 1, 1])
    )
    assert places(found.answer) == [4, 5, 6, 8, 9, 10] and places(found.opens) == [4, 8]
    assert found.clean[0, :11].tolist() == [5, 7, EOS, 5, 8, 9, EOS, 5, 6, EOS, PAD]


def test_a_text_without_a_prompt_begins_behind_its_first_token():
    found = read(([5, 6, 7, EOS], [1, 1, 1, 1]))
    assert places(found.answer) == [1, 2, 3] and places(found.opens) == [1]


def test_an_answer_that_was_cut_off_is_not_whole():
    found = read(([5, 6, 7, 8], [0, 1, 1, 1]), ([5, 6, EOS, EOS], [0, 1, 1, 1]))
    assert places(found.whole) == [5, 6, 7]


def test_labels_of_the_mask_stage():
    """As `EditCollator` has them: its next labels are the current ones, rolled by one."""
    clean = torch.tensor([[5, 6, 7, 8, 9, EOS, PAD]])
    masks = torch.tensor([[0, 0, 0, 1, 1, 0, 1]]).bool()
    current, following = mask_labels(clean, masks)
    assert current.tolist() == [[-100, -100, -100, 8, 9, -100, PAD]]
    assert following.tolist() == [[-100, -100, 8, 9, -100, PAD, -100]]


@pytest.mark.parametrize("first", [False, True])
def test_the_first_token_of_an_answer_is_masked_if_it_is_asked_for(first):
    document = [5, 6, 7, 8, EOS], [0, 0, 1, 1, 1]
    ids, response, place, example = rows(document, document)
    found = read_answers(ids, response, place, example, eos_token_id=EOS, pad_token_id=PAD)
    draws = Draws(0, 0, example, place)
    places_of = [places(masked(found, draws, torch.tensor([t]), first=first)) for t in (1.0, 0.0)]
    assert places_of == [[2, 3, 4, 7, 8, 9] if first else [3, 4, 8, 9], []]
    _, following = mask_labels(found.clean, masked(found, draws, torch.ones(1), first=first))
    assert following[0, 1] == (7 if first else -100)
