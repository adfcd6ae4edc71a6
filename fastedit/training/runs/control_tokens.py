"""Control tokens of a run: the ids that they have, or get, and the rows of those that are new."""

from __future__ import annotations

from typing import Any

import torch

from fastedit.models.adapters.control_tokens import NAMES
from fastedit.policies import JointThresholdInDel
from fastedit.policies.joint_threshold_indel import LLADA2_2
from fastedit.prompts.tokens import id_of, resolve_eos, special_ids
from fastedit.training.control import ControlTokens
from fastedit.training.options import EditOptions

# Texts that tokenizers have for them; a new token has the first.
TEXTS = {
    "delete_token_id": ("<|del|>", "<|delete|>"),
    "insert_token_id": ("<|ins|>", "<|insert|>", "<|split|>"),
}
_USED = {"lcs": NAMES, "levenshtein": NAMES[:1]}


def control_tokens(
    options: EditOptions, model: Any, tokenizer: Any, mask_token_id: int
) -> ControlTokens | None:
    """Those of `options.labels`; None: it has none. The model's config is told.

    An id is, in this order, what the options say; what the model's config or the tokenizer says; of
    a token with a known text; LLaDA2.2's, where that is a row of the model and no text. Else it is
    new: a token is added to `tokenizer`, whose row is one that the model has to spare, or is added
    to the model. It begins as the mean of all tokens.

    Raises ValueError for an option that names none, and for an id beyond the model's or in use.
    """
    names = _USED.get(options.labels, ())
    if not names:
        return None
    known = len(tokenizer)
    found = {name: _known(name, getattr(options, name), model, tokenizer) for name in names}
    new = {
        name: _new(getattr(options, name) or TEXTS[name][0], tokenizer)
        for name, token in found.items()
        if token is None
    }
    tokens = {name: new[name] if token is None else token for name, token in found.items()}
    _check(tokens, set(new.values()), model, tokenizer, mask_token_id)
    if new:
        _give_rows(model, sorted(new.values()), known)
    for name, token in tokens.items():
        setattr(model.config, name, token)
    return ControlTokens(*(tokens[name] for name in names))


def _known(name: str, asked: str | None, model: Any, tokenizer: Any) -> int | None:
    """The id that it has, or None; `asked` is an id, or the text of a token."""
    vocab = model.get_input_embeddings().weight.shape[0]
    if asked is not None:
        if asked.isdecimal():
            return int(asked)
        if _is_number(asked) or not asked.strip():
            raise ValueError(
                f"{name}={asked!r} is neither an id nor the text of a token: give one of them, or "
                "leave it out for a new token"
            )
        return id_of(tokenizer, asked)
    keys = JointThresholdInDel.parameters()[name].keys
    named = [getattr(owner, key, None) for owner in (model.config, tokenizer) for key in keys]
    named += [id_of(tokenizer, text) for text in TEXTS[name]]
    token = next((token for token in named if token is not None), None)
    released = LLADA2_2[NAMES.index(name)]
    if token is None and released < vocab and not _is_text(released, tokenizer):
        return released
    return token


def _new(text: str, tokenizer: Any) -> int:
    """The id of a token that is added to `tokenizer`."""
    tokenizer.add_tokens([text], special_tokens=True)
    return tokenizer.convert_tokens_to_ids(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check(
    tokens: dict[str, int], new: set[int], model: Any, tokenizer: Any, mask_token_id: int
) -> None:
    """Raises ValueError for an id that is none, or that already says something else."""
    vocab = model.get_input_embeddings().weight.shape[0]
    roles = dict.fromkeys(resolve_eos(None, model, tokenizer), "EOS") | {mask_token_id: "the mask"}
    for name, token in tokens.items():
        if token >= vocab and token not in new:
            raise ValueError(
                f"{name}={token} is no id of this model, which has {vocab}: give one below, or a "
                "text for a new token"
            )
        role = roles.get(token)
        if role is None and _is_text(token, tokenizer):
            role = f"the text {tokenizer.convert_ids_to_tokens(token)!r}"
        if role is None and _is_in_use(token, tokenizer):
            role = f"the special token {tokenizer.convert_ids_to_tokens(token)!r}"
        if role is not None:
            raise ValueError(
                f"{name}={token} is {role} already: name another, or leave it out for a new token"
            )
        roles[token] = name


def _is_text(token: int, tokenizer: Any) -> bool:
    """Whether it is a piece of text: a token that was not added to those of the tokenizer."""
    added = {*tokenizer.added_tokens_decoder, *special_ids(tokenizer)}
    return token not in added and token in tokenizer.get_vocab().values()


def _is_in_use(token: int, tokenizer: Any) -> bool:
    """Whether it is special by a name, such as the padding, or stands in the chat template."""
    text = tokenizer.convert_ids_to_tokens(token)
    named = (getattr(tokenizer, name, None) for name in ("bos_token", "pad_token", "unk_token"))
    templates = tokenizer.chat_template or ""
    if isinstance(templates, dict):
        templates = "".join(templates.values())
    return text is not None and (text in named or text in templates)


@torch.no_grad()
def _give_rows(model: Any, new: list[int], known: int) -> None:
    """Embeddings and head rows of `new` ids: the mean of those of the `known` first."""
    if new[-1] >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(new[-1] + 1, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = module.weight
        weight[new] = weight[:known].float().mean(0).to(weight.dtype)
