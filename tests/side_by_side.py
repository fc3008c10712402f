"""Which tests one worker of pytest-xdist runs one after the other, and which of them come first."""

from __future__ import annotations

import re

from xdist.scheduler import LoadFileScheduling

LONGEST_FIRST = ("deploy", "kubernetes", "faults", "e2e", "integration", "contract", "unit")
"""The suites. What takes long must not be begun last, when all other workers have nothing left to do."""

_CONTAINERS = re.compile(r"tests/deploy/containers/|\bin a container\b")
_STACK = re.compile(r"tests/e2e/.*\b(mosquitto|embedded)\b")


class BySharedFixtures(LoadFileScheduling):
    """Tests go where what they share is: with their module, unless more than one module shares it."""

    def _split_scope(self, nodeid: str) -> str:
        if _CONTAINERS.search(nodeid):
            return "containers"  # one Docker engine, and images that take minutes to build
        if stack := _STACK.match(nodeid):
            return f"nrp up with {stack[1]}"
        return str(super()._split_scope(nodeid))


def rank(nodeid: str) -> int:
    """What is ranked lower is to be begun earlier."""
    return LONGEST_FIRST.index(nodeid.split("/")[1])
