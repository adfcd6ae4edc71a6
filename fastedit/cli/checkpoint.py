"""Load the checkpoint that a command names, with something to look at meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fastedit.cli.errors import UserError, one_line
from fastedit.cli.terminal import stderr_console

if TYPE_CHECKING:
    from fastedit.config import DecodeConfig
    from fastedit.decoder import Decoder

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_decoder(
    checkpoint: str | os.PathLike[str],
    config: DecodeConfig,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    head: str | os.PathLike[str] | None = None,
) -> Decoder:
    """`Decoder.from_pretrained` with a tokenizer; what is in the way becomes a `UserError`."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    console = stderr_console()
    started = time.perf_counter()
    # torch raises AssertionError for a device it was not built for, RuntimeError for a bad name.
    refusals = (ValueError, TypeError, OSError, ImportError, RuntimeError, AssertionError)
    with console.status(f"loading {checkpoint}"), one_line(*refusals):
        from transformers.utils import logging

        from fastedit.decoder import Decoder
        from fastedit.ops.dispatch import implementation

        if os.fspath(checkpoint) == "tiny" or Path(checkpoint).is_dir():
            logging.disable_progress_bar()
        decoder = Decoder.from_pretrained(
            checkpoint,
            config,
            adapter=adapter,
            head=head,
            dtype=dtype,
            device=device,
            revision=revision,
        )
        # A FASTEDIT_BACKEND that cannot run is found here, not at the first step.
        implementation("joint_threshold_step_", decoder.device.type)
    if decoder.tokenizer is None:
        raise UserError(
            f"{checkpoint} has no tokenizer: put tokenizer.json and tokenizer_config.json beside "
            "its weights (Decoder.generate takes ids without one)"
        )
    if console.is_terminal:
        seconds = time.perf_counter() - started
        console.print(f"loaded {checkpoint} on {decoder.device} in {seconds:.1f} s", style="dim")
    return decoder
