"""What an examination finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong, but something could not be examined, or is not there and need not be."""
    WARNING = "warning"
    """It works, and will not for long or not for everybody."""
    PROBLEM = "problem"
    """It does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        name: of what was examined.
        verdict: how bad it is.
        message: what was found.
        advice: what to do about it, "" for nothing.
    """

    name: str
    verdict: Verdict
    message: str
    advice: str = ""

    @classmethod
    def ok(cls, name: str, message: str) -> Self:
        """All is well."""
        return cls(name, Verdict.OK, message)

    @classmethod
    def note(cls, name: str, message: str, advice: str = "") -> Self:
        """Worth knowing."""
        return cls(name, Verdict.NOTE, message, advice)

    @classmethod
    def warning(cls, name: str, message: str, advice: str) -> Self:
        """It works, but."""
        return cls(name, Verdict.WARNING, message, advice)

    @classmethod
    def problem(cls, name: str, message: str, advice: str) -> Self:
        """It does not work."""
        return cls(name, Verdict.PROBLEM, message, advice)


@dataclass(frozen=True)
class Area:
    """What was examined together.

    Attributes:
        title: of the area.
        findings: in the order in which they are shown.
    """

    title: str
    findings: list[Finding]


def count(areas: Iterable[Area], verdict: Verdict) -> int:
    """How many findings have this verdict."""
    return sum(finding.verdict is verdict for area in areas for finding in area.findings)
