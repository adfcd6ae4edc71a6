"""Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TypeVar

Step = TypeVar("Step")


class Interrupt:
    """Within it, the first Ctrl-C only sets `asked`; a second one raises.

    So no step is left half done. Python's own handler is replaced meanwhile, in the main thread;
    where a program has another one, a KeyboardInterrupt that it raises ends the `with` and counts.

    asked: whether Ctrl-C came, also where it was in the last step and ended nothing.
    """

    def __init__(self) -> None:
        self.asked = self.ours = False

    def until(self, steps: Iterator[Step]) -> Generator[Step]:
        """Pass `steps` on until Ctrl-C, which ends them behind the step under way.

        For a caller that does nothing long between two steps, as what it does is within it too.
        """
        with self:
            for step in steps:
                yield step
                if self.asked:
                    return

    def __enter__(self) -> None:
        self.ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self.ours:
            signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        if self.ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        first = kind is KeyboardInterrupt and not self.asked
        self.asked |= first
        return first

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
