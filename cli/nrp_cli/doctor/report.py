"""What `nrp doctor` shows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from nrp_cli.doctor.findings import Area, Finding, Verdict, count
from nrp_cli.terminal import console

NARROWEST: Final = 30
"""Characters of text in a line, however narrow the terminal is."""

STYLES: Final = {
    Verdict.OK: "green",
    Verdict.NOTE: "cyan",
    Verdict.WARNING: "yellow",
    Verdict.PROBLEM: "bold red",
}


def show(areas: Sequence[Area]) -> None:
    """For people."""
    width = max((len(finding.name) for area in areas for finding in area.findings), default=0)
    for area in areas:
        if area.findings:
            console.print(area.title, style="bold")
        for finding in area.findings:
            _show(finding, width)
    console.print(_summary(areas))


def as_json(areas: Sequence[Area]) -> dict[str, Any]:
    """For scripts."""
    return {
        "healthy": count(areas, Verdict.PROBLEM) == 0,
        "problems": count(areas, Verdict.PROBLEM),
        "warnings": count(areas, Verdict.WARNING),
        "findings": [
            {
                "area": area.title,
                "name": finding.name,
                "verdict": finding.verdict.value,
                "message": finding.message,
                "advice": finding.advice,
            }
            for area in areas
            for finding in area.findings
        ],
    }


def _show(finding: Finding, width: int) -> None:
    head = Text("  ").append(f"{finding.verdict:9}", STYLES[finding.verdict]).append(f"{finding.name:{width}}  ")
    beside = Text(" " * len(head))
    for line in _wrapped(finding.message, len(head)):
        console.print(head + Text(line), soft_wrap=True)
        head = beside
    for line in _wrapped(f"-> {finding.advice}" if finding.advice else "", len(head)):
        console.print(head + Text(line, "dim"), soft_wrap=True)


def _wrapped(text: str, indentation: int) -> list[str]:
    """Lines that fit beside the indentation on a terminal; elsewhere one."""
    if not console.is_terminal:
        return [text] if text else []
    return textwrap.wrap(
        text, max(NARROWEST, console.width - indentation), break_long_words=False, break_on_hyphens=False
    )


def _summary(areas: Sequence[Area]) -> Text:
    problems, warnings = count(areas, Verdict.PROBLEM), count(areas, Verdict.WARNING)
    if problems:
        return Text(f"{_several(problems, 'problem')}, {_several(warnings, 'warning')}", style="bold red")
    if warnings:
        return Text(f"No problems, {_several(warnings, 'warning')}", style="yellow")
    return Text("No problems", style="green")


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
