"""The results of `measure` for people: a table, and in words where fastedit is slower."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

Row = Mapping[str, Any]


def columns(row: Row) -> dict[str, str]:
    """The cells of one row, by column: all of them, for the benchmark suite's closing table."""
    measured = dict.fromkeys(("time", "spread", "GB/s", _percent(row), "outputs", FASTER), "")
    if "missing" in row:
        measured["outputs"] = f"not measured: {row['missing']}"
    elif "error" in row:
        measured["outputs"] = "WRONG"
    else:
        measured = {
            "time": _time(row["median_us"]),
            "spread": f"{_time(row['p20_us'])} to {_time(row['p80_us'])}",
            "GB/s": f"{row['gbps']:.1f}",
            _percent(row): f"{row['pct_' + _yardstick(row)]:.0f}",
            "outputs": "equal" if row["equal"] else f"{row['differing']} of {row['rows']} differ",
            FASTER: _ratio(row),
        }
    clock = {} if row["device"] == "cpu" else {"clock": _clock(row)}
    head = {"blocks": str(row["blocks"]), "dtype": row["dtype"], "competitor": row["competitor"]}
    return head | clock | measured


FASTER = "fastedit is faster, times"
NOISY = 2.0  # p80 over p20


def rich_table(rows: Sequence[Row]) -> Table:
    """A section per case, in 80 columns; without what could not run, which `remarks` names."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    on_cpu = rows[0]["device"] == "cpu"
    table.add_column("median; p20 to p80", no_wrap=True)
    if not on_cpu:
        table.add_column("clock", no_wrap=True)
    for name in ("time", "spread", "GB/s", _percent(rows[0]), "fastedit\nis faster"):
        table.add_column(name, justify="right", no_wrap=True)
    for case, members in _by_case(rows).items():
        table.add_section()
        table.add_row(case)
        for row in members:
            cells = columns(row)
            spread = cells["spread"].replace(" to ", "-")
            ratio = f"{cells[FASTER]}x" if cells[FASTER] else cells["outputs"]
            table.add_row(
                f"  {row['competitor']}",
                *([] if on_cpu else [cells["clock"]]),
                cells["time"],
                spread,
                cells["GB/s"],
                cells[_percent(row)],
                ratio,
            )
    return table


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What the table does not say: errors, bandwidth, defeats, and who could not run and why."""
    timed = [row for row in rows if "median_us" in row]
    for row in rows:
        if "error" in row:
            yield f"ERROR: {row['competitor']} at {_case(row)}: {row['error']}"
    for row in timed:
        if not row["equal"]:
            yield (
                f"{row['competitor']} at {_case(row)}: {row['differing']} of {row['rows']} "
                "positions differ; its probabilities have the precision of the logits"
            )
    for yardstick in ("read", "copy"):
        speeds = [row[f"{yardstick}_gbps"] for row in timed]
        if speeds:
            yield f"{yardstick} bandwidth: {min(speeds):.1f} to {max(speeds):.1f} GB/s by case"
    yield from _noise(timed)
    yield from _verdict([row for row in timed if not row["ours"] and "times_faster" in row])
    versions = dict.fromkeys(row["version"] for row in rows if "version" in row)
    yield f"versions: {', '.join(versions)}"
    for name, why in {
        row["competitor"]: row["missing"] for row in rows if "missing" in row
    }.items():
        yield f"not measured: {name}: {why}"


def _noise(timed: Sequence[Row]) -> Iterator[str]:
    """Cases that were disturbed; their medians and ratios may be far off."""
    disturbed = defaultdict(list)
    for row in timed:
        if row["p80_us"] > NOISY * row["p20_us"]:
            disturbed[_where(row)].append(row["competitor"])
    for place, names in disturbed.items():
        yield f"noisy, measure again, do not quote: {place}: {', '.join(names)}"


def _verdict(peers: Sequence[Row]) -> Iterator[str]:
    """Where fastedit's default back end loses, peer by peer."""
    lost = defaultdict(list)
    for row in peers:
        if row["times_faster"] < 1.0:
            lost[row["competitor"]].append(f"{_ratio(row)}x at {_where(row)}")
    for name, places in lost.items():
        yield f"{peers[0]['baseline']} is slower than {name}: {'; '.join(places)}"
    if peers and not lost:
        yield f"{peers[0]['baseline']} is faster than every peer in every case"


def _by_case(rows: Sequence[Row]) -> dict[str, list[Row]]:
    cases: dict[str, list[Row]] = {}
    for row in rows:
        if "missing" not in row:
            cases.setdefault(_case(row), []).append(row)
    return cases


def _case(row: Row) -> str:
    return f"{row['blocks']} block{'s' if row['blocks'] > 1 else ''}, {row['dtype']}"


def _where(row: Row) -> str:
    return _case(row) if row["device"] == "cpu" else f"{_case(row)}, {_clock(row)}"


def _clock(row: Row) -> str:
    return f"{row['clock']}, {'cold' if row['cold'] else 'warm'}" if "clock" in row else ""


def _yardstick(row: Row) -> str:
    return "read" if row["device"] == "cpu" else "copy"


def _percent(row: Row) -> str:
    return f"% of {_yardstick(row)}"


def _ratio(row: Row) -> str:
    return f"{row['times_faster']:.2f}" if "times_faster" in row else ""


def _time(microseconds: float) -> str:
    """Three digits, in the unit that needs no exponent."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= 0.9995 * size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} µs"
