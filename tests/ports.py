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
    """A port of 127.0.0.1 at which nobody listens, and which no other test gets."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """The same, so many in a row."""
    while True:
        row = list(itertools.islice(_ports, number))
        if row[-1] - row[0] == number - 1 and all(map(_is_free, row)):
            return row


def _own_block() -> Iterator[int]:
    """The ports of a block that no other process of tests has, in this run or another one; over and over."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    with socket.socket(socket.AF_UNIX) as mark:
        number = next((each for each in range(worker, worker + BLOCKS) if _marks(mark, each % BLOCKS)), worker)
        first = FIRST + number % BLOCKS * BLOCK
        skipped = random.randrange(BLOCK)  # should all be taken, not the same ports as others
        yield from itertools.islice(itertools.cycle(range(first, first + BLOCK)), skipped, None)


def _marks(mark: socket.socket, block: int) -> bool:
    """Mark a block as taken, for as long as the mark is open. Returns whether nobody else did."""
    try:
        mark.bind(f"\0nrp-tests/ports/{block}")  # no file: it goes with its process, and is of a network, as ports are
    except OSError:
        return False
    return True


_ports = _own_block()


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
