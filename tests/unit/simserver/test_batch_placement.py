"""What all clusters have in common, in the simplest cluster that there can be."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nrp_common.bus import Bus
from nrp_common.messages import ServerPresence
from nrp_simserver.placement import batch
from nrp_simserver.placement.batch import BatchPlacement, BatchServer, Ending, NotNow
from nrp_simserver.placement.job import CLAIM, Claim
from nrp_simserver.placement.placement import Listener, Placement, ServerOrder
from nrp_simserver.server_end import ServerEnd
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder
from tests.fakes import FakeBus
from tests.unit.simserver.placements import Told, order
from tests.waiting import wait_until

INCARNATION = "0123456789abcdef0123456789abcdef"


class Note(batch.JobNote):
    """Of a job that has nothing to be noted."""

    FILE = "simple_job.json"


class SimplePlacement(BatchPlacement[BatchServer[Note]]):
    """A cluster that takes whatever it is given, unless a test says otherwise."""

    CLUSTER = "Simple"
    ORPHANED_S = 0.0
    BEING_SUBMITTED = "It is being submitted"

    def __init__(self, settings: LauncherSettings, bus: Bus, listener: Listener, told: threading.Event) -> None:
        super().__init__(settings, bus, listener, told.set)
        self.attempts = 0
        self.refuses = False
        self.looks = 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.ended: list[Ending] = []

    def server(self) -> BatchServer[Note]:
        return self._servers[INCARNATION]

    @property
    def has_looked_into_folders(self) -> bool:
        return self._folders_looked_at > -math.inf

    def close(self) -> None:
        self.leave()

    def _ordered(self, order: ServerOrder, folder: SimulationFolder, order_file: Path) -> BatchServer[Note]:
        return BatchServer(order.setup.incarnation, folder, Note())

    def _found(self, incarnation: str, folder: SimulationFolder) -> BatchServer[Note] | None:
        note = Note.read(folder)
        return None if note is None else BatchServer(incarnation, folder, note)

    def _submit(self, server: BatchServer[Note]) -> None:
        self.attempts += 1
        assert self.goes_on.wait(10)
        if self.refuses:
            raise NotNow("It is tired")

    def _urged(self, server: BatchServer[Note]) -> None:
        self.ended.append(server.ending)

    def _look(self) -> None:
        self._looked_at = batch.time.monotonic()
        self.looks += 1
        if self.looks == 1:
            raise ConnectionError("The cluster is not there yet")
        with self._changed:
            for server in self._servers.values():
                if not server.may_have_job:
                    self._ask(server, self._submit)
        self._tell_all_told()

    def _is_free(self, server: BatchServer[Note]) -> bool:
        return not server.is_online

    def _delay_after(self, failures: int) -> float:
        return 0.0 if failures < 3 else math.inf


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
def folder(tmp_path: Path) -> SimulationFolder:
    folder = SimulationFolder(tmp_path / "simulations" / "1", 1)
    folder.path.mkdir(parents=True)
    return folder


@pytest.fixture
def placement(tmp_path: Path, told: Told, bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimplePlacement]:
    monkeypatch.setattr(batch, "LOOK_S", 0.02)
    placement = SimplePlacement(LauncherSettings(data_directory=tmp_path), cast(Bus, bus), told, told.all_told)
    yield placement
    placement.goes_on.set()
    placement.leave()


def say(placement: SimplePlacement, bus: FakeBus, *, online: bool) -> None:
    """What the server says of itself on the bus."""
    topic = LauncherSettings().topics.server_presence(INCARNATION)
    bus.hear(topic, ServerPresence(online=online, simulation_id=1))


def end(folder: SimulationFolder, exit_code: int, *, is_told: bool = False, reason: str | None = None) -> None:
    """What its job notes down at its end."""
    ServerEnd(pid=1, spawner=1, exit_code=exit_code, ended_at=1.0, is_told=is_told, reason=reason).write(folder)


def test_it_is_a_placement(placement: SimplePlacement) -> None:
    as_such: Placement = placement  # the type checker's to say, too
    assert as_such.room.places == batch.CAPACITY


def test_what_a_cluster_does_not_do_now_is_asked_again_with_growing_pauses(
    placement: SimplePlacement, folder: SimulationFolder
) -> None:
    placement.refuses = True
    placement.start({})
    placement.place(order(folder, INCARNATION))
    wait_until(lambda: placement.server().failures == 4)
    assert placement.attempts == 4
    assert placement.server().obstacle == "It is tired"
    assert placement.server().retry_at == math.inf
    placement.stop(INCARNATION)  # that is another matter
    assert placement.server().retry_at == -math.inf


def test_of_one_server_a_cluster_is_asked_one_thing_at_a_time(
    placement: SimplePlacement, folder: SimulationFolder
) -> None:
    placement.goes_on.clear()
    placement.start({})
    placement.place(order(folder, INCARNATION))
    looks = placement.looks
    wait_until(lambda: placement.looks > looks + 3)  # each of which would have it submitted
    assert placement.attempts == 1


def test_a_look_that_fails_is_not_the_last(placement: SimplePlacement, told: Told) -> None:
    placement.start({})
    assert told.all_told.wait(10)


def test_a_server_that_leaves_the_bus_is_looked_after_at_once(
    placement: SimplePlacement, folder: SimulationFolder, bus: FakeBus, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LOOK_S", 3600.0)
    placement.start({})
    wait_until(lambda: placement.has_looked_into_folders)  # and does not again for an hour
    placement.place(order(folder, INCARNATION))
    say(placement, bus, online=True)
    assert told.spawned == 1
    end(folder, 1)
    say(placement, bus, online=False)
    wait_until(lambda: told.ends)
    assert told.ends == [("The simulation server ended with exit code 1", False)]


def test_a_server_that_never_got_onto_the_bus_is_looked_after_when_it_is_to_end(
    placement: SimplePlacement, folder: SimulationFolder, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LOOK_S", 3600.0)
    placement.start({})
    wait_until(lambda: placement.has_looked_into_folders)  # and does not again for an hour
    placement.place(order(folder, INCARNATION))
    end(folder, 0)
    placement.stop(INCARNATION)
    wait_until(lambda: told.ends)


@pytest.mark.parametrize(
    ("exit_code", "is_told", "reason", "says_all"),
    [(0, False, None, True), (7, False, None, True), (-9, False, None, False), (0, True, None, False),
     (-9, True, "It used too much", True)],
)  # fmt: skip
def test_only_the_cluster_knows_what_killed_a_server_or_had_it_told_to_end(
    placement: SimplePlacement,
    folder: SimulationFolder,
    told: Told,
    exit_code: int,
    is_told: bool,
    reason: str | None,
    says_all: bool,
) -> None:
    placement.start({})
    placement.place(order(folder, INCARNATION))
    end(folder, exit_code, is_told=is_told, reason=reason)
    looked = placement.server().read_at
    wait_until(lambda: told.ends or placement.server().read_at > looked + 0.1)
    assert bool(told.ends) is says_all
    placement.kill(INCARNATION)  # so that this launcher knows, too
    wait_until(lambda: told.ends)
    assert placement.ended == [] if says_all else [Ending.CANCEL]


def test_a_server_is_told_to_end_once_and_more_urgently_only(
    placement: SimplePlacement, folder: SimulationFolder
) -> None:
    placement.start({})
    placement.place(order(folder, INCARNATION))
    for ask in (placement.stop, placement.stop, placement.kill, placement.stop, placement.kill):
        ask(INCARNATION)
    assert placement.ended == [Ending.STOP, Ending.CANCEL]


def test_its_folder_is_left_to_a_server_that_is_on_the_bus_still(
    placement: SimplePlacement, folder: SimulationFolder, bus: FakeBus
) -> None:
    placement.start({})
    placement.place(order(folder, INCARNATION))
    say(placement, bus, online=True)
    forgetting = threading.Thread(target=placement.forget, args=(INCARNATION,))
    forgetting.start()
    looks = placement.looks
    wait_until(lambda: placement.looks > looks + 3)
    assert forgetting.is_alive()
    say(placement, bus, online=False)
    forgetting.join(10)
    assert not forgetting.is_alive()


def test_what_an_experiment_puts_in_the_place_of_a_note_holds_nobody_up(folder: SimulationFolder) -> None:
    for name in (Note.FILE, CLAIM):
        os.mkfifo(folder.path / name)  # whose reader waits for a writer
    assert Note.read(folder) is None
    assert Claim.read(folder) is None


def test_the_next_launcher_finds_what_was_noted_down_and_nothing_else(
    placement: SimplePlacement, folder: SimulationFolder, told: Told
) -> None:
    placement.start({INCARNATION: folder, "another": SimulationFolder(folder.path.parent / "2", 2)})
    assert told.found == []
    placement.place(order(folder, INCARNATION))
    placement.leave()
    bus = cast(Bus, FakeBus())
    following = SimplePlacement(LauncherSettings(data_directory=folder.path.parents[1]), bus, told, told.all_told)
    following.start({INCARNATION: folder})
    following.leave()
    assert told.found == [INCARNATION]
    assert following.server().may_have_job
