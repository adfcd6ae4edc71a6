"""Shared fixtures. `tests/golden` has the golden cases: made by the released code of others."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from triton_interpreter import patch_once_per_launch

if not torch.cuda.is_available():  # before anything imports Triton: it looks when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

# It breaks the lines of what the command line says; readline, which pytest imports, sets it for
# processes that are started from here, behind the back of os.environ.
os.environ.pop("COLUMNS", None)
os.unsetenv("COLUMNS")
GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_arrives():
    """A shell without job control starts background commands with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter():
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
        patch_once_per_launch()


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden checkpoint and cases made by the released decoding loop."""
    return GOLDEN / "llada2_tiny"


@pytest.fixture(scope="session")
def golden_cases(golden: Path) -> list[dict]:
    return [json.loads(line) for line in (golden / "cases.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def golden_model(golden: Path):
    from fastedit.models.llada2 import LLaDA2MoeModelLM

    return LLaDA2MoeModelLM.from_pretrained(golden, dtype="float32").eval()


@pytest.fixture(scope="session")
def tokenizer():
    """Bytes, then the specials <eos>, <|mask|>, <|role_end|>, then the plain added <note>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<eos>", "<|mask|>", "<|role_end|>"])
    fast.add_tokens(["<note>"])
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>", chat_template=TEMPLATE)


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
