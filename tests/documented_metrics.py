"""What `docs/metrics.md` says of the figures, to be compared with what is really served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
SHARED = "Gateway and launcher"

_ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<type>\w+) \|(?P<labels>[^|]*)\|(?P<meaning>[^|]*)\|[^|]*\|$")
_OF_HISTOGRAMS = {"le"}


class Figure(NamedTuple):
    """Name, type and labels, as the text format has them."""

    name: str
    type: str
    labels: frozenset[str]


def documented(*sections: str) -> set[Figure]:
    """The figures in these sections of the page; each has to be explained."""
    found, section = set(), ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif (row := _ROW.match(line)) and section in sections:
            assert row["meaning"].strip(), line
            found.add(Figure(row["name"], row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"]))))
    return found


def served(text: str) -> set[Figure]:
    """The figures in what a part serves."""
    return {_figure(family) for family in text_string_to_metric_families(text)}


def samples(text: str) -> dict[str, float]:
    """Each sample's value, by its name and labels as in the text."""
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def _figure(family: Metric) -> Figure:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return Figure(name, family.type, frozenset(_labels(family)) - _OF_HISTOGRAMS)


def _labels(family: Metric) -> Iterable[str]:
    return (label for each in family.samples for label in each.labels)
