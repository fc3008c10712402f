"""The queue keeps its order, also while launchers refuse and while other gateways serve it."""

from __future__ import annotations

from typing import cast

import pytest

from nrp_common.bus import Bus
from nrp_common.messages import Refusal, Reply, Wishes
from nrp_common.topics import Topics
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.launch_queue import LaunchQueue
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences
from tests.fakes import FakeBus
from tests.unit.gateway.conftest import add

FULL = Reply(error="all places are taken", refusal=Refusal.FULL)
TAKEN = Reply()


class FakePresences:
    """Launchers that said that they have room for one."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def with_room(self, wishes: Wishes) -> list[str]:
        return self.names

    def room_of(self, launcher: str) -> int:
        return 1


class Served:
    """A queue, and what was handed over to whom."""

    def __init__(self, mirror: Mirror, bus: FakeBus, *launchers: str) -> None:
        self.asked: list[tuple[int, str]] = []
        self.answers: list[Reply] = []
        presences = cast(Presences, FakePresences(*launchers))
        self.queue = LaunchQueue(mirror, presences, cast(Bus, bus), Topics(), self._hand_over)

    def _hand_over(self, record: SimulationRecord, _token: str) -> Reply:
        self.asked.append((record.id, record.launcher))
        return self.answers.pop(0) if self.answers else TAKEN


@pytest.fixture
def waiting(mirror: Mirror, catalogue: Catalogue) -> list[int]:
    """Two launches that wait, in their order."""
    records = [add(catalogue, launcher="", queued_at=float(moment)) for moment in (1, 2)]
    for each in records:
        mirror.add(each)
    return [each.id for each in records]


def test_they_are_handed_over_in_their_order(mirror: Mirror, bus: FakeBus, waiting: list[int]) -> None:
    served = Served(mirror, bus, "lab")
    served.queue.serve()
    assert served.asked == [(each, "lab") for each in waiting]


def test_nobody_gets_the_room_that_was_refused_to_who_is_ahead(
    mirror: Mirror, bus: FakeBus, waiting: list[int]
) -> None:
    served = Served(mirror, bus, "lab")
    served.answers = [FULL]
    served.queue.serve()
    assert served.asked == [(waiting[0], "lab")]
    served.queue.serve()
    assert served.asked[1:] == [(each, "lab") for each in waiting]


def test_nobody_gets_the_room_that_another_gateway_just_gave_to_who_is_ahead(
    mirror: Mirror, catalogue: Catalogue, bus: FakeBus, waiting: list[int]
) -> None:
    ahead = catalogue.get(waiting[0])
    assert ahead is not None
    assert catalogue.give_to(ahead, "lab") is not None
    served = Served(mirror, bus, "lab")
    for _ in range(3):
        served.queue.serve()
    assert served.asked == []
    catalogue.note_incarnation(ahead.id, "i")  # the launcher has it, and still says that it has room
    served.queue.serve()
    assert served.asked == [(waiting[1], "lab")]


def test_who_is_behind_does_not_wait_for_one_that_a_launcher_never_takes(
    mirror: Mirror, bus: FakeBus, waiting: list[int]
) -> None:
    served = Served(mirror, bus, "lab")
    served.answers = [Reply(error="it asks for what there is not", refusal=Refusal.INVALID), TAKEN]
    served.queue.serve()
    assert served.asked == [(each, "lab") for each in waiting]


def test_who_is_behind_is_handed_over_to_another_launcher_meanwhile(
    mirror: Mirror, bus: FakeBus, waiting: list[int]
) -> None:
    served = Served(mirror, bus, "lab", "shed")
    served.answers = [FULL, TAKEN, TAKEN]
    served.queue.serve()
    assert served.asked == [(waiting[0], "lab"), (waiting[0], "shed"), (waiting[1], "shed")]
