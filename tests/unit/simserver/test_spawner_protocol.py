"""What launchers and spawners say to each other, also when they are of different versions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nrp_simserver.placement.local.spawner_protocol import (
    AllTold,
    Dismiss,
    End,
    Ended,
    Hello,
    Idle,
    IdleGone,
    Lines,
    NotSpawned,
    Order,
    PoolFault,
    Prepare,
    Report,
    Retire,
    Signal,
    Spawn,
    Spawned,
    order_in,
    report_in,
    to_line,
)
from nrp_simserver.simulation_folder import BusAccess, ServerSetup

BUS = BusAccess(broker_host="here", broker_port=1883, broker_password="secret", mqtt_prefix="lab")
SETUP = ServerSetup(
    **BUS.model_dump(),
    simulation_id=1,
    incarnation="i",
    folder=Path("/x"),
    configuration="c\n.json",
    main_script="m.py",
)

ORDERS: list[Order] = [
    Prepare(idle_servers=2, bus=BUS, orphaned_s=math.inf, stop_grace_s=5),
    Spawn(setup=SETUP),
    Signal(incarnation="i", number=9),
    Dismiss(incarnation="i"),
    Retire(),
    End(),
]
REPORTS: list[Report] = [
    Hello(pid=1, identity="x", is_retired=True),
    AllTold(),
    Idle(incarnation="i", pid=3),
    IdleGone(incarnation="i"),
    PoolFault(reason="two\nlines", retry_after_s=1),
    Spawned(incarnation="i", pid=2),
    NotSpawned(incarnation="i", reason="why"),
    Ended(incarnation="i", exit_code=-9, reason="why"),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda each: each.kind)
def test_orders_arrive_as_they_were_given(order: Order) -> None:
    [line] = Lines().add(to_line(order))
    assert order_in(line) == order


@pytest.mark.parametrize("report", REPORTS, ids=lambda each: each.kind)
def test_reports_arrive_as_they_were_made(report: Report) -> None:
    [line] = Lines().add(to_line(report))
    assert report_in(line) == report


def test_lines_are_put_together_from_any_pieces() -> None:
    stream = b"".join(map(to_line, ORDERS))
    lines = Lines()
    received = [line for byte in stream for line in lines.add(bytes([byte]))]
    assert [order_in(line) for line in received] == ORDERS


def test_line_that_was_cut_off_is_none() -> None:
    assert Lines().add(to_line(Retire())[:-1]) == []


@pytest.mark.parametrize("line", [b"", b"{}", b"no JSON", b'{"kind": "paint it black"}', b'{"kind": "signal"}'])
def test_what_another_version_says_is_passed_over(line: bytes) -> None:
    assert order_in(line) is None
    assert report_in(line) is None


def test_fields_that_another_version_adds_are_passed_over() -> None:
    assert order_in(b'{"kind": "retire", "when": "now"}') == Retire()
    assert report_in(b'{"kind": "hello", "pid": 1, "identity": "x", "mood": "good"}') == Hello(pid=1, identity="x")


def test_setup_knows_how_to_get_onto_the_bus() -> None:
    assert SETUP.bus_access == BUS
