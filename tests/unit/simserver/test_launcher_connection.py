"""A spawner never waits for its launcher."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

import pytest

from nrp_simserver.placement.local.launcher_connection import LauncherConnection
from nrp_simserver.placement.local.spawner_protocol import Lines, Order, Retire, Signal, Spawned, report_in, to_line

MANY = 20_000


class Spawner:
    """The spawner's side, and the launcher's socket."""

    def __init__(self) -> None:
        self.launcher, theirs = socket.socketpair()
        self.launcher.settimeout(5)
        self.orders: list[Order] = []
        self.losses = 0
        self._events = selectors.DefaultSelector()
        self.connection = LauncherConnection(theirs, self._events, self.orders.append, self._lose)

    def _lose(self) -> None:
        self.losses += 1

    def work(self) -> None:
        """Do what is to be done now."""
        while ready := self._events.select(0):
            for key, _ in ready:
                key.data()

    def close(self) -> None:
        self.connection.close()
        self.launcher.close()
        self._events.close()


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


def test_launcher_that_does_not_listen_gets_everything_once_it_does(spawner: Spawner) -> None:
    for pid in range(MANY):
        spawner.connection.report(Spawned(incarnation="i", pid=pid))
    lines, pids = Lines(), []
    while len(pids) < MANY:
        spawner.work()
        reports = [report_in(line) for line in lines.add(spawner.launcher.recv(1 << 20))]
        pids += [report.pid for report in reports if isinstance(report, Spawned)]
    assert pids == list(range(MANY))
    assert spawner.losses == 0


def test_orders_are_obeyed_up_to_the_last_one_of_a_launcher_that_goes(spawner: Spawner) -> None:
    orders: list[Order] = [Signal(incarnation="i", number=15), Retire()]
    spawner.launcher.sendall(b"".join(map(to_line, orders)))
    spawner.launcher.close()
    spawner.work()
    assert spawner.orders == orders
    assert spawner.losses == 1


def test_report_to_a_launcher_that_has_gone_is_dropped(spawner: Spawner) -> None:
    spawner.launcher.close()
    for _ in range(3):
        spawner.connection.report(Spawned(incarnation="i", pid=1))
    assert spawner.losses == 1
