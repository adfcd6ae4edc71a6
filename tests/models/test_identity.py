"""Which model a name means: folders by content, ids on the Hub by their commit."""

from __future__ import annotations

import json

import pytest

from fastedit.models.identity import identity
from fastedit.models.load import TINY

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of a Hub that cannot be reached: owner/name, whose main is OLD and branch NEW."""
    root = tmp_path / "models--owner--name"
    for ref, commit in (("main", OLD), ("branch", NEW)):
        for name in ("config.json", "adapter_config.json"):
            path = root / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"model_type": "x"}))
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return root


def test_an_id_is_the_commit_that_it_stands_for(hub):
    assert identity("owner/name") == {"weights": OLD, "tokenizer": OLD, "adapter": ""}
    assert identity("owner/name", revision="branch")["weights"] == NEW
    assert identity("owner/name", revision=NEW)["weights"] == NEW
    assert identity("tiny", "owner/name")["adapter"] == OLD
    (hub / "refs" / "main").write_text(NEW)
    assert identity("owner/name")["weights"] == NEW


def test_an_id_that_is_not_there_is_named(hub):
    with pytest.raises(OSError, match="checkpoint 'owner/other': there is no such folder here"):
        identity("owner/other")
    with pytest.raises(OSError, match="adapter 'owner/other': there is no such folder here"):
        identity("tiny", "owner/other")


def test_the_embedded_checkpoint_is_its_folder():
    assert identity("tiny") == identity(TINY) == identity(str(TINY), revision="any")


def test_what_cannot_be_loaded_has_no_identity(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        identity(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is none at"):
        identity(tmp_path / "nowhere")
