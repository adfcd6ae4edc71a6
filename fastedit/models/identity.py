"""Which model a name means, so that results of another one can be told apart later."""

from __future__ import annotations

import os
from pathlib import Path

from fastedit.models.digests import adapter_digest, checkpoint_digests, head_digest
from fastedit.models.load import TINY
from fastedit.models.places import folder_or_id, named


def identity(
    checkpoint: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    head: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Digests of "weights", "tokenizer" and "adapter" (empty without one), and of "head" with one.

    Folders are known by the contents of their files, see `fastedit.models.digests`, and ids on the
    Hub by the commit that they stand for now. Raises OSError and ValueError for what cannot be
    loaded either.
    """
    name = os.fspath(checkpoint)
    path = str(TINY) if name == "tiny" else folder_or_id(name, "checkpoint")
    if Path(path).is_dir():
        found = checkpoint_digests(Path(path))
    else:
        with named(path, "checkpoint", OSError):
            found = dict.fromkeys(("weights", "tokenizer"), _commit(path, "config.json", revision))
    found["adapter"] = ""
    if adapter is not None:
        place = folder_or_id(os.fspath(adapter), "adapter")
        with named(place, "adapter", OSError):
            found["adapter"] = (
                adapter_digest(Path(place))
                if Path(place).is_dir()
                else _commit(place, "adapter_config.json", None)
            )
    if head is not None:
        found["head"] = head_digest(TINY if head == "tiny" else Path(os.path.expanduser(head)))
    return found


def _commit(name: str, file: str, revision: str | None) -> str:
    """The commit of `revision`, or of the default branch, as the Hub or its cache here says."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    commit: str | None = extract_commit_hash(cached_file(name, file, revision=revision), None)
    if commit is None:
        raise OSError("the cache of the Hub does not say its commit")
    return commit
