"""Holes as people type them."""

import pytest

from fastedit.prompts.holes import split_at_holes

M = "<m>"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a [MASK:3] b", ("a ", "<m><m><m> b")),
        ("[MASK]", ("", "<m>")),
        ("a<m><m>b[MASK:2]", ("a", "<m><m>b<m><m>")),
        ("[MASK: 02 ]x[MASK]", ("", "<m><m>x<m>")),
        ("[MASKED] [mask:2] a[Mask:1]\n", ("[MASKED] ", "<m><m> a<m>\n")),
    ],
)
def test_a_hole_has_as_many_masks_as_it_says(text, want):
    assert split_at_holes(text, M) == want


def test_a_tokenizer_may_write_its_mask_as_a_hole_is_written():
    assert split_at_holes("a [MASK] [MASK:2]", "[MASK]") == ("a ", "[MASK] [MASK][MASK]")


@pytest.mark.parametrize("hole", ["[MASK:]", "[MASK:0]", "[MASK:x]", "[MASK:-1]", "[MASK:1000000]"])
def test_a_hole_without_a_length_is_refused(hole):
    with pytest.raises(ValueError) as caught:
        split_at_holes(f"a [MASK:2] {hole}", M)
    assert str(caught.value).startswith(f"{hole} is no hole")


@pytest.mark.parametrize("text", ["", "a ____ b", "[masked]"])
def test_a_text_without_a_hole_is_refused(text):
    with pytest.raises(ValueError, match=r"no hole: write \[MASK:8\].*<m>"):
        split_at_holes(text, M)
