"""Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TypeVar

Step = TypeVar("Step")


def until_interrupted(steps: Iterator[Step]) -> Generator[Step]:
    """Pass `steps` on until Ctrl-C: the first ends them behind the step under way, a second raises.

    So nothing is left half done. Python's own handler is replaced meanwhile, in the main thread;
    where a program has another one, a KeyboardInterrupt that it raises in a step ends them too.
    """
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, ask)
    try:
        for step in steps:
            yield step
            if asked:
                return
    except KeyboardInterrupt:
        if asked:
            raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
