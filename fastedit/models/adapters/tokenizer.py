"""The tokenizer and chat template that lie beside an adapter take the place of the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .folder import Adapter

# A tokenizer is whole where one of these is.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_ADDITIONS = ("added_tokens.json",)


def adapted_tokenizer(adapter: Adapter, base: Any, config: Any) -> Any:
    """The adapter's tokenizer where it has one, else `base` with the adapter's chat template.

    `base`: the checkpoint's, or None. `config`: the model's. What a tokenizer does not say, its
    chat template or which token is the mask, is as in `base`. Raises ValueError for files that do
    not load.
    """
    folder = adapter.folder
    if any((folder / name).exists() for name in TOKENIZERS):
        tokenizer = _load(adapter, config)
        if base is not None:
            _complete(tokenizer, base)
        return tokenizer
    for name in _ADDITIONS:
        if (folder / name).exists():
            raise ValueError(
                f"adapter {adapter.name!r} has {name} without the tokenizer it adds to: call "
                "tokenizer.save_pretrained on its folder"
            )
    template = _chat_template(adapter)
    if template is not None and base is not None:
        base.chat_template = template
    return base


def _load(adapter: Adapter, config: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(adapter.folder), config=config, trust_remote_code=False
        )
    except Exception as error:  # the libraries below raise plain Exception for a damaged file
        raise ValueError(
            f"adapter {adapter.name!r}: its tokenizer files do not load "
            f"({' '.join(str(error).split())}); save them again with tokenizer.save_pretrained, "
            "or remove them to use the checkpoint's"
        ) from error


def _complete(tokenizer: Any, base: Any) -> None:
    if tokenizer.chat_template is None:
        tokenizer.chat_template = base.chat_template
    known = tokenizer.get_vocab()
    for role, token in base.special_tokens_map.items():
        if isinstance(token, str) and token in known and getattr(tokenizer, role, None) is None:
            tokenizer.add_special_tokens({role: token})


def _chat_template(adapter: Adapter) -> Any:
    """A template, or several by name, as `tokenizer.chat_template` takes them; None: no file."""
    folder = adapter.folder
    found: dict[str, str] = {}
    if (folder / "chat_template.jinja").exists():
        found["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    if found:
        return found["default"] if list(found) == ["default"] else found
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _json(adapter, folder / name).get("chat_template")
        if template:
            if isinstance(template, list):
                return {entry["name"]: entry["template"] for entry in template}
            return template
    return None


def _json(adapter: Adapter, file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"adapter {adapter.name!r}: {file.name} is not JSON ({error})") from error
    return values if isinstance(values, dict) else {}
