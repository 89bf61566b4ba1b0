"""Faults by kind, for a terminal and for a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from benchmarks.chaos.life import Fault


def rows(faults: Iterable[Fault]) -> list[dict[str, str]]:
    """How often each kind of fault hit each process, how often a promise was lost, and what it took."""
    found: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in faults:
        found[fault.process, fault.kind].append(fault)
    every = [fault for group in found.values() for fault in group]
    return [_row(*key, group) for key, group in [*sorted(found.items()), (("all", ""), every)] if group]


def _row(process: str, kind: str, faults: list[Fault]) -> dict[str, str]:
    seconds = [fault.seconds for fault in faults]
    return {
        "process": process,
        "fault": kind,
        "faults": str(len(faults)),
        "lost": str(sum(bool(fault.lost) for fault in faults)),
        "seconds": f"{median(seconds):.1f}",
        "at most": f"{max(seconds):.1f}",
    }


def lines(table: list[dict[str, str]]) -> list[str]:
    """A table for a terminal, with a head."""
    table = [{name: name for row in table[:1] for name in row}, *table]
    widths = {name: max(len(row[name]) for row in table) for name in table[0]}
    return ["  ".join(cell.ljust(widths[name]) for name, cell in row.items()).rstrip() for row in table]
