"""The embedded checkpoint: small, and with a tokenizer and a chat template."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from transformers import AutoTokenizer

    import fastedit.models.llada2  # noqa: F401  (the tokenizer's class is found by its config)
    from fastedit.models.load import TINY

    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture
def tiny_model():
    from fastedit.models.llada2 import LLaDA2MoeModelLM
    from fastedit.models.load import TINY

    return LLaDA2MoeModelLM.from_pretrained(TINY)
