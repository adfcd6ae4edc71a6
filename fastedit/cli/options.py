"""Options that several commands share, and how they become a `DecodeConfig`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli.errors import one_line

if TYPE_CHECKING:
    from fastedit.config import DecodeConfig


def option(help: str, panel: str | None = None, *names: str, metavar: str | None = None) -> Any:
    """What typer is told of an option; `names` where they do not follow from the parameter."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


_MODEL, _DECODING = "Model", "Decoding"

Checkpoint = Annotated[
    str, option("Folder, Hub id, or 'tiny' (embedded).", _MODEL, metavar="PATH|ID")
]
Adapter = Annotated[str | None, option("LoRA folder or Hub id, merged.", _MODEL)]
Head = Annotated[
    str | None, option("Folder of a correction head, for policies that need one.", _MODEL)
]
Revision = Annotated[str | None, option("Branch, tag or commit on the Hub.", _MODEL)]
Dtype = Annotated[str, option("auto (as stored), float32, bfloat16, float16.", _MODEL)]
Device = Annotated[str, option("auto, cpu, cuda, cuda:1, mps, ...", _MODEL)]

Mode = Annotated[
    str | None,
    option(
        "Both thresholds at once: quality .7/.5, speed .5/.0.", _DECODING, metavar="quality|speed"
    ),
]
Policy = Annotated[
    str | None,
    option(
        "Decision rule, NAME or NAME:FIELD=VALUE,... (docs/policies.md).",
        _DECODING,
        metavar="POLICY",
    ),
]
Steps = Annotated[int | None, option("Forwards per block, of a schedule.", _DECODING)]
Threshold = Annotated[float | None, option("Masks above this confidence commit.", _DECODING)]
EditingThreshold = Annotated[
    str | None,
    option(
        "Tokens are replaced by a rival above this confidence; none = off, 0 = every change.",
        _DECODING,
        metavar="FLOAT|none",
    ),
]
BlockLength = Annotated[int | None, option("Tokens per block, as trained.", _DECODING)]
MaxNewTokens = Annotated[int | None, option("Generated tokens at most.", _DECODING)]
MaxPostSteps = Annotated[
    int | None, option("Forwards of a block once it has no mask, at most.", _DECODING)
]
NumToTransfer = Annotated[int | None, option("Least commits per forward.", _DECODING)]
MaskTokenId = Annotated[int | None, option("Where the checkpoint names none.", _DECODING)]
EosTokenId = Annotated[list[int] | None, option("Instead of the checkpoint's.", _DECODING)]
Temperature = Annotated[float | None, option("0 = greedy.", _DECODING)]
TopP = Annotated[float | None, option("Nucleus, when sampling.", _DECODING)]
TopK = Annotated[int | None, option("Best k, when sampling.", _DECODING)]
Seed = Annotated[int | None, typer.Option(help="Of the draws, when sampling.")]
Lookahead = Annotated[
    bool | None, option("A forward may serve two blocks: fewer of them.", _DECODING)
]
Cache = Annotated[
    str | None,
    option(
        "What is kept from forward to forward (docs/caches.md).",
        _DECODING,
        metavar="exact|none|prefix|dual",
    ),
]
Stop = Annotated[list[str] | None, option("Text that ends it; repeatable.", _DECODING)]


def decode_config(**options: Any) -> DecodeConfig:
    """The `DecodeConfig` of the options that were given (not None, not an empty list)."""
    from fastedit.config import DecodeConfig

    given = {name: value for name, value in options.items() if value not in (None, [])}
    if "editing_threshold" in given:
        given["editing_threshold"] = _editing_threshold(given["editing_threshold"])
    with one_line(ValueError, TypeError):
        return DecodeConfig(**given)


def check_sampling(
    temperature: float | None, in_file: bool, policy: str | None, **given: Any
) -> None:
    """Warn of what only sampling uses where nothing samples; lines of a file may set it themselves.

    given: top_p, top_k, seed; None where not given.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if "--seed" in names and _draws(policy):
        names.remove("--seed")
    if names and not temperature and not in_file:
        warnings.warn(
            f"{', '.join(names)} without --temperature above 0: nothing is drawn, so no effect",
            stacklevel=2,
        )


def _draws(policy: str | None) -> bool:
    """Whether a rule draws without a temperature of the config; a wrong name is refused later."""
    if policy is None:
        return False
    from fastedit.policies import POLICIES

    known = POLICIES.get(policy.partition(":")[0].strip())
    return known is not None and "sample" in known().needs


def _editing_threshold(text: str) -> float | str | None:
    """'none' and 'off' -> None, a number -> float; the config refuses anything else."""
    if text.lower() in ("none", "off"):
        return None
    try:
        return float(text)
    except ValueError:
        return text
