"""Which idle servers there are, and when the next one is due."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest

from nrp_simserver.placement.local.server_pool import PAUSE_S, RETRY_DELAYS_S, YOUNG_S, IdleServer, ServerPool
from nrp_simserver.simulation_folder import BusAccess

BUS = BusAccess(broker_host="here", broker_port=1883)
OTHER_BUS = BusAccess(broker_host="here", broker_port=1883, mqtt_prefix="lab")

_pids = itertools.count(100)


class Pool:
    """A pool whose clock a test moves."""

    def __init__(self, size: int) -> None:
        self.now = 0.0
        self.pool = ServerPool(lambda: self.now)
        self.pool.prepare(size, BUS)
        self._sockets: list[socket.socket] = []

    def start(self, bus: BusAccess = BUS) -> IdleServer:
        pid = next(_pids)
        ours, theirs = socket.socketpair()
        self._sockets += [ours, theirs]
        server = IdleServer(f"i{pid}", pid, ours, bus, self.now, 0)
        self.pool.add(server)
        return server

    def fill(self) -> list[IdleServer]:
        while (due_in := self.pool.due_in()) is not None:
            self.now += due_in
            self.start()
        return self.pool.idle

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


def test_servers_are_due_until_there_are_as_many_as_wanted_one_after_the_other(pool: Pool) -> None:
    assert pool.pool.due_in() == 0
    pool.start()
    assert pool.pool.due_in() == PAUSE_S
    pool.now += PAUSE_S
    assert pool.pool.due_in() == 0
    pool.start()
    assert pool.pool.due_in() is None


def test_server_is_taken_once_and_replaced_after_a_pause(pool: Pool) -> None:
    first, _ = pool.fill()
    pool.now += 10
    assert pool.pool.take(first.incarnation) is first
    assert pool.pool.take(first.incarnation) is None
    assert first not in pool.pool.idle
    assert pool.pool.due_in() == pytest.approx(PAUSE_S)


def test_row_of_launches_does_not_put_the_replacement_off_for_ever(pool: Pool) -> None:
    first, second = pool.fill()
    pool.now += 10
    pool.pool.take(first.incarnation)
    pool.now += PAUSE_S / 2
    pool.pool.take(second.incarnation)
    assert pool.pool.due_in() == pytest.approx(PAUSE_S / 2)


def test_nothing_is_due_when_none_are_wanted() -> None:
    assert Pool(0).pool.due_in() is None


def test_servers_that_came_onto_the_bus_otherwise_are_dismissed(pool: Pool) -> None:
    servers = pool.fill()
    assert pool.pool.prepare(2, BUS) == []
    assert pool.pool.prepare(2, OTHER_BUS) == servers
    assert pool.pool.idle == []
    assert pool.pool.due_in() is not None


def test_superfluous_servers_are_dismissed(pool: Pool) -> None:
    first, second = pool.fill()
    assert pool.pool.prepare(1, BUS) == [second]
    assert pool.pool.idle == [first]


def test_server_that_died_is_replaced_at_once_when_it_was_old(pool: Pool) -> None:
    first, _ = pool.fill()
    pool.now += YOUNG_S
    assert pool.pool.bury(first.pid) is first
    assert not pool.pool.is_failing
    assert pool.pool.due_in() == 0


def test_servers_that_die_young_are_tried_ever_less_often(pool: Pool) -> None:
    pool.now += 10
    for delay in (*RETRY_DELAYS_S, RETRY_DELAYS_S[-1]):
        server = pool.start()
        pool.pool.bury(server.pid)
        assert pool.pool.is_failing
        assert pool.pool.due_in() == delay
        pool.now += delay


def test_trust_returns_when_a_server_was_good_for_a_launch(pool: Pool) -> None:
    pool.pool.bury(pool.start().pid)
    pool.now += RETRY_DELAYS_S[0]
    pool.pool.take(pool.start().incarnation)
    assert not pool.pool.is_failing


def test_other_settings_are_tried_at_once(pool: Pool) -> None:
    for _ in range(3):
        pool.pool.bury(pool.start().pid)
    assert pool.pool.due_in() != 0
    pool.pool.prepare(2, OTHER_BUS)
    assert pool.pool.due_in() == 0


def test_end_of_another_process_is_none_of_its_business(pool: Pool) -> None:
    servers = pool.fill()
    assert pool.pool.bury(1) is None
    assert pool.pool.idle == servers
