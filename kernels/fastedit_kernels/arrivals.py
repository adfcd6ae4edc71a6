"""The workspace of the kernels, and how the last program of a group finds out that it is the last.

Programs leave partial results in the workspace and count themselves in; nobody waits. Whoever
arrives last sees all the results, goes on with them, and sets the counter back to zero for the next
launch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@triton.jit
def is_last(counter, expected):
    """Count this program in at `counter`; True for the last of `expected`."""
    # All threads' stores must come before the one thread's atomic; Triton 3.6 and 3.7 do not
    # insert this barrier themselves.
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == expected - 1
    if last:
        tl.store(counter, 0)
    return last


@dataclass(frozen=True)
class Workspace:
    """Room for `spots` splits: a launch needs rows * splits of them, and at most as many rows.

    numbers   [4 * spots] fp32, planes of partial sums
    tokens    [2 * spots] int32
    counters  [2 * spots] int32, zero between launches
    """

    numbers: torch.Tensor
    tokens: torch.Tensor
    counters: torch.Tensor

    @classmethod
    def new(cls, device: torch.device, spots: int) -> "Workspace":
        return cls(
            torch.empty(4 * spots, dtype=torch.float32, device=device),
            torch.empty(2 * spots, dtype=torch.int32, device=device),
            torch.zeros(2 * spots, dtype=torch.int32, device=device),
        )


_kept: dict[tuple[torch.device, int, int], Workspace] = {}


def workspace(device: torch.device, spots: int) -> Workspace:
    """The workspace of the current stream, made at its first use and kept: streams share none.

    Inside a CUDA graph capture it is a new one that belongs to the graph, since a graph may be
    replayed on any stream, beside any other.
    """
    stream = _stream(device)
    if stream is None:
        return Workspace.new(device, spots)
    key = (device, stream, triton.next_power_of_2(spots))
    if key not in _kept:
        _kept[key] = Workspace.new(device, key[2])
    return _kept[key]


_ids: dict[tuple[torch.device, tuple[int, ...]], dict[int, torch.Tensor]] = {}


def id_list(device: torch.device, ids: tuple[int, ...]) -> torch.Tensor:
    """`ids` as int32 on the device; never empty, so that it has an address.

    Copied once per stream, without a wait. A capture takes any of these copies, as torch lets all
    streams come to rest before it; without one it raises RuntimeError.
    """
    kept, stream = _ids.setdefault((device, ids), {}), _stream(device)
    if stream is None:
        if not kept:
            raise RuntimeError("run this once before it is captured: its ids are not on the device")
        return next(iter(kept.values()))
    if stream not in kept:
        here = torch.tensor(ids or (-1,), dtype=torch.int32, pin_memory=device.type == "cuda")
        kept[stream] = here.to(device, non_blocking=True)
    return kept[stream]


def _stream(device: torch.device) -> int | None:
    """The current stream of `device`, None inside a CUDA graph capture."""
    if device.type != "cuda":
        return 0
    if torch.cuda.is_current_stream_capturing():
        return None
    return torch.cuda.current_stream(device).cuda_stream
