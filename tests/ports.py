"""Ports for servers that come and go under test, and that nobody else is given while they are away."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

FIRST = 10_000
BLOCK = 2_000
BLOCKS = 11
"""All below what systems give to those who ask for any port (Linux: from 32768)."""


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens, and which nobody else in this run of the tests gets."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """The same, so many in a row."""
    while True:
        row = list(itertools.islice(_ports, number))
        if row[-1] - row[0] == number - 1 and all(map(_is_free, row)):
            return row


def _block() -> Iterator[int]:
    """The ports of this worker, over and over, not always from the same one on: there may be another run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST + worker % BLOCKS * BLOCK
    skipped = random.randrange(BLOCK)
    return itertools.islice(itertools.cycle(range(first, first + BLOCK)), skipped, None)


_ports = _block()


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
