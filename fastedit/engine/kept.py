"""The engine that a Decoder keeps between its calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastedit.engine.engine import Engine
from fastedit.heads import Head
from fastedit.memory.capacity import Room, capacity
from fastedit.models.threads import Threads, number_of


class Kept:
    """Lends one engine to one call at a time; others get one of their own."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads
        self.engine: Engine | None = None
        self._room: Room | None = None
        self._lock = threading.Lock()
        self._lent = False

    @contextlib.contextmanager
    def lend(
        self,
        model: Callable[..., Any],
        head: Head | None,
        room: Room,
        device: torch.device,
    ) -> Iterator[Engine]:
        """An engine of `model` and `head` with that room. Nothing is in it, and what is left is
        aborted."""
        wanted = model, head, room, device
        with self._lock:
            mine, self._lent = not self._lent, True
        try:
            engine = self._fitting(*wanted) if mine else self.new(*wanted)
            try:
                yield engine
            finally:
                if not mine:
                    engine.close()
        finally:
            if mine:
                self._lent = False

    def close(self) -> None:
        """Give the memory back, once the call that has the engine is over."""
        with self._lock:
            engine, self.engine = self.engine, None
        if engine is not None and not self._lent:
            engine.close()

    def _fitting(self, model: Any, head: Head | None, room: Room, device: torch.device) -> Engine:
        engine = self.engine
        fits = engine and engine.model is model and engine.head is head
        if engine is None or not fits or engine.device != device or self._room != room:
            if engine is not None:
                engine.close()  # first: its memory is part of what is free
            engine = self.engine = self.new(model, head, room, device)
            self._room = room
        return engine

    def new(self, model: Any, head: Head | None, room: Room, device: torch.device) -> Engine:
        """One for its own, beside the one that is kept."""
        threads = number_of(self.threads, model) if device.type == "cpu" else None
        return Engine(model, device, capacity(room, model, device), threads, head)
