"""A small tokenizer with one token per byte: most characters beyond ASCII take several tokens."""

import pytest

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)


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


@pytest.fixture
def countless_experts(golden_model):
    """The golden model with experts that do not count their tokens on the host."""
    before = golden_model.config._experts_implementation
    golden_model.set_experts_implementation("batched_mm")
    yield golden_model
    golden_model.set_experts_implementation(before)
