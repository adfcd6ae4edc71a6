"""Documents into rows: best fit, in the order of the data."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], row_length: int, *, together: bool = True) -> list[list[int]]:
    """Rows of document numbers whose lengths add up to at most `row_length`.

    A document goes into the fullest row that still has room for it. `together=False`: a row each.
    Every length lies in [1, row_length].
    """
    if not together:
        return [[number] for number in range(len(lengths))]
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room left -> rows
    for number, length in enumerate(lengths):
        room = min((free for free in open_rows if free >= length), default=None)
        if room is None:
            row, room = len(rows), row_length
            rows.append([])
        else:
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
        rows[row].append(number)
        if room > length:
            open_rows.setdefault(room - length, []).append(row)
    return rows
