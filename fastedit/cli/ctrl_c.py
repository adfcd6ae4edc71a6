"""Ctrl-C while a run trains: it waits until the step that is under way is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class SaveOnCtrlC(TrainerCallback):
    """The first Ctrl-C ends the run behind the step that is under way, with a checkpoint of it, by
    the KeyboardInterrupt that was held back; the second one raises at once. A context manager.

    It acts from the first step to the last. Of several processes, which it reaches in different
    steps, each is ended at once, as is one that has a handler of its own or ignores SIGINT.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """say  gets a line at the first Ctrl-C"""
        self.say, self.asked, self._holds = say, False, False

    def __enter__(self) -> SaveOnCtrlC:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        alone = args.world_size == 1 and threading.current_thread() is threading.main_thread()
        if alone and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)
            self._holds = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Comes at the end of every step, and of a validation, before a checkpoint is due."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    on_evaluate = on_log

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.asked:  # perhaps since the checkpoint was begun
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Trackers have ended before; curves and results, which come next, are of whole runs."""
        self._let_go()
        if self.asked:
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        self._let_go()
        self.asked = True
        # In a thread of its own: what was interrupted may hold the locks of the progress bar.
        line = "Ctrl-C: the step under way is finished and saved; a second one ends at once"
        threading.Thread(target=self.say, args=(line,)).start()

    def _let_go(self) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._holds = False
