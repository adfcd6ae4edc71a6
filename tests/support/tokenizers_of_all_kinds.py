"""Small real tokenizers, one for each way in which ids become text."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["the", "a", "x", "é", "中", "文", "😀", ",", ".", "n't", "'", "!", "  ", "\n"]


def _fast(model, decoder, **options) -> PreTrainedTokenizerFast:
    """With the special tokens <eos> and <|mask|> and the plain added token <note>."""
    backend = Tokenizer(model)
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["<eos>", "<|mask|>"])
    backend.add_tokens(["<note>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", **options)


def byte_level():
    """With merges within and across characters, so that tokens begin and end inside of them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelt = ["".join(_spell(word)) for word in ("中", "文", "😀", "é")]
    merges = [(spelt[0][0], spelt[0][1]), (spelt[0][2], spelt[1][0]), (spelt[2][1], spelt[2][2])]
    merges += [("a", spelt[2][0]), (spelt[3][1], spelt[0][0]), ("Ġ", "a")]
    vocabulary = [*letters, *("".join(merge) for merge in merges)]
    model = models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)
    tokenizer = _fast(model, decoders.ByteLevel())
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = spelling
    return tokenizer


def _spell(word: str) -> list[str]:
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word)
    return [piece for piece, _ in pieces]


def _sentencepiece_tokens() -> list[str]:
    words = [*WORDS, *("▁" + word for word in ("the", "a", "x", "中")), "▁", "▁▁", "<0x", "\ufffd"]
    return ["<unk>", *words, *(f"<0x{byte:02X}>" for byte in range(256))]


def _bpe():
    tokens = {token: i for i, token in enumerate(_sentencepiece_tokens())}
    return models.BPE(tokens, [], unk_token="<unk>", byte_fallback=True)


def llama():
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _fast(_bpe(), decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)]))


def gemma():
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _fast(_bpe(), decoders.Sequence(steps))


def unigram():
    scores = [(token, -1.0) for token in _sentencepiece_tokens()]
    model = models.Unigram(scores, unk_id=0, byte_fallback=True)
    steps = [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    return _fast(model, decoders.Sequence(steps))


def metaspace():
    scores = [(token, -1.0) for token in _sentencepiece_tokens()]
    return _fast(models.Unigram(scores, unk_id=0), decoders.Metaspace())


def _words() -> dict[str, int]:
    tokens = ["[UNK]", *WORDS, *("##" + word for word in WORDS), "do", "can"]
    return {token: i for i, token in enumerate(tokens)}


def word_piece():
    model = models.WordPiece(_words(), unk_token="[UNK]")
    return _fast(model, decoders.WordPiece(cleanup=True), clean_up_tokenization_spaces=True)


def word_piece_as_it_is():
    return _fast(models.WordPiece(_words(), unk_token="[UNK]"), decoders.WordPiece(cleanup=False))


def word_level():
    return _fast(models.WordLevel(_words(), unk_token="[UNK]"), None)


def suffixed():
    tokens = {token + end: 0 for token in WORDS for end in ("", "</w>")}
    numbered = {token: i for i, token in enumerate(tokens)}
    return _fast(models.BPE(numbered, []), decoders.BPEDecoder("</w>"))


def unknown():
    """A decoder that looks further than one token: equal neighbours are one."""
    return _fast(models.WordLevel(_words(), unk_token="[UNK]"), decoders.CTC("a", "x"))


BOUNDED = {
    make.__name__: make
    for make in (
        byte_level, llama, gemma, unigram, metaspace,
        word_piece, word_piece_as_it_is, word_level, suffixed,
    )
}  # fmt: skip
