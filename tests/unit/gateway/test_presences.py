"""Who is there."""

from __future__ import annotations

from typing import cast

import pytest

from nrp_common.bus import Bus
from nrp_common.messages import LauncherPresence, ServerPresence
from nrp_common.topics import Topics
from nrp_gateway.presences import Presences
from tests.fakes import FakeBus

TOPICS = Topics("lab")


@pytest.fixture
def presences(bus: FakeBus) -> Presences:
    presences = Presences(TOPICS)
    presences.listen_to(cast(Bus, bus))
    return presences


def launcher(bus: FakeBus, name: str, *, capacity: int = 4, running: int = 0, online: bool = True) -> None:
    bus.hear(TOPICS.launcher_presence(name), LauncherPresence(online=online, capacity=capacity, running=running))


def test_launchers_come_and_go(presences: Presences, bus: FakeBus) -> None:
    launcher(bus, "a")
    assert presences.has_launcher("a")
    assert not presences.has_launcher("b")
    launcher(bus, "a", online=False)
    assert not presences.has_launcher("a")


def test_cleared_presence_is_absence(presences: Presences, bus: FakeBus) -> None:
    launcher(bus, "a")
    bus.hear(TOPICS.launcher_presence("a"), b"")
    assert presences.by_room() == []


def test_capacity_is_that_of_all(presences: Presences, bus: FakeBus) -> None:
    assert presences.capacity == 0
    launcher(bus, "a", capacity=4)
    launcher(bus, "b", capacity=3)
    assert presences.capacity == 7


def test_most_room_comes_first_and_full_ones_last(presences: Presences, bus: FakeBus) -> None:
    launcher(bus, "full", capacity=9, running=9)
    launcher(bus, "some", capacity=4, running=1)
    launcher(bus, "most", capacity=6, running=2)
    assert presences.by_room() == ["most", "some", "full"]


def test_burst_of_launches_spreads_out(presences: Presences, bus: FakeBus) -> None:
    launcher(bus, "a", capacity=2)
    launcher(bus, "b", capacity=2)
    asked = []
    for _ in range(4):
        asked.append(presences.by_room()[0])
        presences.note_asked(asked[-1])
    assert asked == ["a", "b", "a", "b"]
    launcher(bus, "b", capacity=2, running=0)  # its own word counts
    assert presences.by_room() == ["b", "a"]


def test_busy_launcher_runs_something(presences: Presences, bus: FakeBus) -> None:
    launcher(bus, "idle")
    launcher(bus, "busy", running=1)
    assert presences.has_busy_launcher("busy")
    assert not presences.has_busy_launcher("idle")
    assert not presences.has_busy_launcher("gone")


def test_servers_come_and_go(presences: Presences, bus: FakeBus) -> None:
    bus.hear(TOPICS.server_presence("i"), ServerPresence(online=True, simulation_id=1))
    assert presences.has_server("i")
    bus.hear(TOPICS.server_presence("i"), ServerPresence(online=False))
    assert not presences.has_server("i")


def test_nobody_is_there_until_heard_again(presences: Presences, bus: FakeBus) -> None:
    launcher(bus, "a")
    bus.hear(TOPICS.server_presence("i"), ServerPresence(online=True))
    presences.forget()
    assert presences.by_room() == []
    assert not presences.has_server("i")


@pytest.mark.parametrize("noise", [b"no JSON", b"[]", b'{"online": "perhaps"}', b'{"online": true, "capacity": -1}'])
def test_nonsense_changes_nothing(presences: Presences, bus: FakeBus, noise: bytes) -> None:
    launcher(bus, "a")
    bus.hear(TOPICS.launcher_presence("a"), noise)
    assert presences.by_room() == ["a"]
