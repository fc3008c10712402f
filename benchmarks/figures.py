"""Figures and the table that they make."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        what: was measured.
        value: what was seen, with its unit.
        original: what the original backend took on a machine of this kind, where it is known.
        target: what it should be at most (or at least), where there is a target.
    """

    what: str
    value: str
    original: str = ""
    target: str = ""


def milliseconds(times_s: Sequence[float]) -> str:
    """Median and 99th percentile of `times_s` (seconds) in milliseconds."""
    ordered = sorted(times_s)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return f"{statistics.median(ordered) * 1e3:.1f} ms (p99 {p99 * 1e3:.1f} ms, n={len(ordered)})"


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [(figure.what, figure.value, figure.target, figure.original) for figure in figures]
    head = ("what", "seen", "target", "original")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
