"""Which lane a request decodes in, and how many lanes are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from fastedit.engine.graphs import Graphs
from fastedit.engine.lane import Lane
from fastedit.engine.store import Store
from fastedit.heads import Head
from fastedit.memory.extents import NOWHERE
from fastedit.plans.call import ModelCall
from fastedit.plans.scores import heads_of
from fastedit.request.prepare import shared
from fastedit.request.request import Request

# Steps that the host lags behind the device, by device type; 0 elsewhere. 1 where the device works
# while the host goes on and an event tells when a copy has arrived.
DELAY = {"cuda": 1}
# Lanes that are kept, with their graphs, where nobody is in some of them.
LANES = 8


class Lanes(dict[Hashable, Lane]):
    """Lanes of one model over one store, by what their requests share."""

    def of(
        self,
        request: Request,
        model: Callable[..., Any],
        head: Head | None,
        device: torch.device,
        store: Store,
        slots: int,
    ) -> Lane:
        """The lane of `request`; a new one has room for `slots` requests."""
        key = shared(request)
        if key not in self:
            self._make_room(store)
            delay = DELAY.get(device.type, 0)
            # A capture would not own the memory on the other devices of a model that has several.
            several = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
            wanted = request.config.cuda_graphs and delay > 0 and not several
            graphs = Graphs(device, wanted)
            room = 2 * request.block_length if graphs.capture else 0
            spare = store.spare(room) if room else NOWHERE
            call = ModelCall(model, *heads_of(model, head, request.policy.needs))
            self[key] = Lane(call, store, request, slots, spare, graphs, delay)
        return self[key]

    def busy(self) -> list[Lane]:
        return [lane for lane in self.values() if lane.busy]

    def clear_graphs(self) -> None:
        """They work on tensors that were replaced."""
        for lane in self.values():
            lane.steps.graphs.clear()

    def forget(self) -> None:
        """Nothing of any lane is needed any more."""
        self.clear_graphs()
        for lane in self.values():
            lane.steps.copies.clear()
        self.clear()

    def _make_room(self, store: Store) -> None:
        """For one more: lanes with nobody in them go, the oldest first."""
        for key in [key for key, lane in self.items() if not lane.busy]:
            if len(self) < LANES:
                return
            lane = self.pop(key)
            lane.steps.graphs.clear()
            if lane.slots.spare.size:
                store.extents.give(lane.slots.spare)
