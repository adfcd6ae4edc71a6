"""Rows that teach edits: the layout of the released trainer, and what is refused."""

import gzip
import json

import pytest
import torch

from fastedit.training.data.edit_rows import edit_row

PAD, DELETE, EOS = 0, 2, 3
IDS = {"pad_token_id": PAD, "delete_token_id": DELETE, "eos_token_id": EOS}


def test_rows_are_those_of_the_released_trainer(golden_folder):
    with gzip.open(golden_folder / "edit_labels" / "labels_pack.jsonl.gz", "rt") as lines:
        packs = [json.loads(line) for line in lines]
    assert len(packs) == 120
    for pack in packs:
        lengths = pack["prompt_lens"]
        drafts = [torch.tensor(text) for text in pack["noisy"]]
        targets = [torch.tensor(text) for text in pack["target"]]
        row = edit_row(
            [text[:n] for text, n in zip(drafts, lengths, strict=True)],
            [text[n:] for text, n in zip(drafts, lengths, strict=True)],
            [text[n:] for text, n in zip(targets, lengths, strict=True)],
            row_length=pack["max_len"],
            canonical_first_gap=False,
            **IDS,
        )
        assert row["input_ids"].tolist() == pack["input_ids"]
        assert row["current_labels"].tolist() == pack["curr_token_labels"]
        assert row["next_labels"].tolist() == pack["next_token_labels"]
        begins = pack["cu_seq_lens"]
        del begins[len(lengths) + 1]  # of a sequence without tokens
        assert row["cu_seqlens"].tolist() == begins and row["cu_seqlens"].dtype == torch.int32


def test_a_row_that_is_full_has_no_padding_and_options_reach_the_labels():
    texts = [torch.tensor([7])], [torch.tensor([5, 6, EOS])], [torch.tensor([5, 5, 6, EOS])]
    row = edit_row(*texts, row_length=4, **IDS)
    assert row["next_labels"].tolist() == [5, 5, EOS, -100]
    assert row["cu_seqlens"].tolist() == [0, 4]
    released = edit_row(*texts, row_length=4, canonical_first_gap=False, **IDS)
    assert released["next_labels"].tolist() == [5, 6, EOS, -100]


def test_what_does_not_fit_is_named():
    prompt, text = torch.tensor([7]), torch.tensor([5, EOS])
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        edit_row([prompt, prompt[:0]], [text] * 2, [text] * 2, row_length=9, **IDS)
    with pytest.raises(ValueError, match="6 tokens together, more than the 5"):
        edit_row([prompt] * 2, [text] * 2, [text] * 2, row_length=5, **IDS)
    with pytest.raises(ValueError, match="2 prompts, 1 drafts"):
        edit_row([prompt] * 2, [text], [text], row_length=5, **IDS)
