"""Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TypeVar

Step = TypeVar("Step")


class Interrupt:
    """asked: whether Ctrl-C came, also where it was in the last step and ended nothing."""

    def __init__(self) -> None:
        self.asked = False

    def until(self, steps: Iterator[Step]) -> Generator[Step]:
        """Pass `steps` on until Ctrl-C, which ends them behind the step under way; a second raises.

        So nothing is left half done. Python's own handler is replaced meanwhile, in the main
        thread; where a program has another one, a KeyboardInterrupt that it raises in a step ends
        them too.
        """
        ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if ours:
            signal.signal(signal.SIGINT, self._ask)
        try:
            for step in steps:
                yield step
                if self.asked:
                    return
        except KeyboardInterrupt:
            if self.asked:
                raise
            self.asked = True
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
