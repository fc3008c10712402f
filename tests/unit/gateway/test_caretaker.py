"""What a gateway does by the clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import pytest

from nrp_common.bus import Bus
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import (
    Archives,
    LauncherPresence,
    LifecycleMessage,
    NodeQueue,
    Progress,
    ServerPresence,
    Status,
)
from nrp_common.topics import Topics
from nrp_gateway import caretaker as caretaker_module
from nrp_gateway import catalogue as catalogue_module
from nrp_gateway.caretaker import ABSENCE_GRACE_S, CLEANING_DELAY_S, QUEUED_GRACE_S, RETAINED_LEAVES, Caretaker
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.mirror import RECENT_S, Mirror
from nrp_gateway.presences import Presences
from tests.fakes import FakeBus
from tests.unit.gateway.conftest import add, report
from tests.waiting import wait_until

TOPICS = Topics()


class Installation:
    """A caretaker whose clock a test moves, and a simulation that is paused."""

    def __init__(self, catalogue: Catalogue, mirror: Mirror, bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed, now = 0.0, time.time()
        clock = SimpleNamespace(monotonic=lambda: 1000 + self.passed, time=lambda: now + self.passed)
        monkeypatch.setattr(caretaker_module, "time", clock)
        monkeypatch.setattr(catalogue_module, "time", clock)
        self.catalogue, self.mirror, self.bus = catalogue, mirror, bus
        self.presences = Presences(TOPICS)
        self.presences.listen_to(cast(Bus, bus))
        self.caretaker = Caretaker(mirror, self.presences, cast(Bus, bus), TOPICS)
        self.record = add(catalogue)
        mirror.add(self.record)
        mirror.note_incarnation(self.record.id, "i")
        mirror.take(self.record.id, report(self.record, SimulationEvent.INITIALIZED, 1))

    @property
    def shown(self) -> SimulationRecord | None:
        return self.mirror.get(self.record.id)

    @property
    def state(self) -> SimulationState:
        assert self.shown is not None
        return self.shown.state

    def launcher(self, *, online: bool = True, running: int = 1) -> None:
        presence = LauncherPresence(online=online, capacity=4, running=running)
        self.bus.hear(TOPICS.launcher_presence("fake"), presence)

    def server(self, *, online: bool = True) -> None:
        self.bus.hear(TOPICS.server_presence("i"), ServerPresence(online=online))

    def let_pass(self, seconds: float) -> None:
        """A round, some time, and another round."""
        self.caretaker.make_round()
        self.passed += seconds
        self.caretaker.make_round()

    def retain_everything(self) -> None:
        for leaf in RETAINED_LEAVES:
            self.bus.publish(TOPICS.simulation(self.record.id, leaf), b"{}", retain=True)
        self.bus.publish(TOPICS.server_presence("i"), b"{}", retain=True)


@pytest.fixture
def installation(catalogue: Catalogue, mirror: Mirror, bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation(catalogue, mirror, bus, monkeypatch)


# -- verdicts --------------------------------------------------------------------------------------------------------


def test_simulation_is_failed_when_launcher_and_server_stay_away(installation: Installation) -> None:
    assert ABSENCE_GRACE_S == 30
    installation.let_pass(ABSENCE_GRACE_S - 0.1)
    assert installation.state is SimulationState.PAUSED
    installation.let_pass(0.1)
    assert installation.state is SimulationState.FAILED
    verdict = LifecycleMessage.from_json(installation.bus.retained[TOPICS.lifecycle(installation.record.id)])
    assert verdict is not None
    assert (verdict.incarnation, verdict.seq) == ("i", 2)
    assert verdict.reason
    assert "'fake'" in verdict.reason


def test_one_in_a_clusters_queue_is_given_up_later(installation: Installation) -> None:
    waiting = add(installation.catalogue)
    installation.mirror.add(waiting)
    installation.mirror.note_incarnation(waiting.id, "waiting")
    installation.bus.hear(TOPICS.status(waiting.id), Progress(progress=NodeQueue(queue_reason="Priority")))
    installation.let_pass(QUEUED_GRACE_S - 0.1)
    assert installation.state is SimulationState.FAILED
    record = installation.mirror.get(waiting.id)
    assert record is not None
    assert record.state is SimulationState.CREATED
    installation.let_pass(0.1)
    record = installation.mirror.get(waiting.id)
    assert record is not None
    assert record.state is SimulationState.FAILED


def test_verdict_keeps_the_last_times(installation: Installation) -> None:
    last = Status(state=SimulationState.PAUSED, real_time=3.0, simulation_time=2.0, simulation_time_left=1.0)
    installation.bus.hear(TOPICS.status(installation.record.id), last)
    installation.let_pass(ABSENCE_GRACE_S)
    status = Status.from_json(installation.bus.retained[TOPICS.status(installation.record.id)])
    assert status == last.model_copy(update={"state": SimulationState.FAILED})


def test_simulation_lives_on_while_its_server_is_there(installation: Installation) -> None:
    installation.server()
    installation.let_pass(10 * ABSENCE_GRACE_S)
    assert installation.state is SimulationState.PAUSED


def test_simulation_lives_on_while_a_launcher_with_simulations_is_there(installation: Installation) -> None:
    installation.launcher(running=1)
    installation.let_pass(10 * ABSENCE_GRACE_S)
    assert installation.state is SimulationState.PAUSED


def test_simulation_that_its_launcher_forgot_is_failed(installation: Installation) -> None:
    installation.launcher(running=0)
    installation.let_pass(ABSENCE_GRACE_S)
    assert installation.state is SimulationState.FAILED


def test_simulation_that_was_never_taken_is_failed(installation: Installation) -> None:
    installation.launcher(running=3)
    record = add(installation.catalogue)
    installation.let_pass(ABSENCE_GRACE_S)
    shown = installation.mirror.get(record.id)
    assert shown is not None
    assert shown.state is SimulationState.FAILED
    assert shown.error
    assert "did not take" in shown.error


@pytest.mark.parametrize("who", ["launcher", "server"])
def test_absence_counts_anew_after_a_return(installation: Installation, who: str) -> None:
    installation.let_pass(ABSENCE_GRACE_S - 1)
    getattr(installation, who)()
    installation.caretaker.make_round()
    getattr(installation, who)(online=False)
    installation.let_pass(ABSENCE_GRACE_S - 1)
    assert installation.state is SimulationState.PAUSED


def test_absence_counts_only_while_the_gateway_is_connected(installation: Installation) -> None:
    installation.let_pass(ABSENCE_GRACE_S - 1)
    installation.bus.is_connected = False
    installation.let_pass(10 * ABSENCE_GRACE_S)
    installation.bus.is_connected = True
    installation.let_pass(ABSENCE_GRACE_S - 1)
    assert installation.state is SimulationState.PAUSED


def test_no_verdict_when_another_gateway_knows_the_end(installation: Installation) -> None:
    installation.catalogue.report(installation.record.id, report(installation.record, SimulationEvent.STOPPED, 2))
    installation.let_pass(ABSENCE_GRACE_S)
    assert installation.state is SimulationState.STOPPED
    assert installation.bus.retained == {}


# -- cleaning --------------------------------------------------------------------------------------------------------


def test_retained_messages_go_a_minute_after_the_end(installation: Installation) -> None:
    assert CLEANING_DELAY_S == 60
    installation.mirror.take(installation.record.id, report(installation.record, SimulationEvent.STOPPED, 2))
    installation.retain_everything()
    installation.let_pass(CLEANING_DELAY_S - 1)
    assert len(installation.bus.retained) == len(RETAINED_LEAVES) + 1
    installation.let_pass(1.1)
    assert installation.bus.retained == {}


def test_retained_messages_of_a_running_simulation_stay(installation: Installation) -> None:
    installation.server()
    installation.retain_everything()
    installation.let_pass(10 * CLEANING_DELAY_S)
    assert len(installation.bus.retained) == len(RETAINED_LEAVES) + 1


def test_last_will_of_a_server_without_a_simulation_goes_after_a_minute(installation: Installation) -> None:
    for incarnation, will in (("idle", ServerPresence(online=False)), ("i", ServerPresence(online=False))):
        installation.bus.publish(TOPICS.server_presence(incarnation), will, retain=True)
        installation.bus.hear(TOPICS.server_presence(incarnation), will)
    installation.launcher()
    installation.let_pass(CLEANING_DELAY_S - 1)
    assert len(installation.bus.retained) == 2
    installation.let_pass(1.1)
    assert list(installation.bus.retained) == [TOPICS.server_presence("i")]  # whose simulation is not finished


def test_presence_of_a_server_that_came_back_stays(installation: Installation) -> None:
    for online in (False, True):
        presence = ServerPresence(online=online)
        installation.bus.publish(TOPICS.server_presence("idle"), presence, retain=True)
        installation.bus.hear(TOPICS.server_presence("idle"), presence)
    installation.let_pass(10 * CLEANING_DELAY_S)
    assert TOPICS.server_presence("idle") in installation.bus.retained


def test_archives_that_come_later_are_cleaned_up_too(installation: Installation) -> None:
    installation.mirror.take(installation.record.id, report(installation.record, SimulationEvent.STOPPED, 2))
    installation.let_pass(CLEANING_DELAY_S + 1)
    archives = Archives(logs="a.log.zip")
    installation.bus.publish(TOPICS.archives(installation.record.id), archives, retain=True)
    installation.bus.hear(TOPICS.archives(installation.record.id), archives)
    wait_until(lambda: installation.shown is not None and installation.shown.logs == "a.log.zip")
    installation.caretaker.make_round()
    assert installation.bus.retained == {}


def test_cleaning_is_made_up_for_by_a_restarted_gateway(installation: Installation) -> None:
    installation.mirror.take(installation.record.id, report(installation.record, SimulationEvent.STOPPED, 2))
    installation.retain_everything()
    later = Mirror(installation.catalogue, cast(Bus, installation.bus), TOPICS)
    later.start()
    caretaker = Caretaker(later, installation.presences, cast(Bus, installation.bus), TOPICS)
    installation.passed += CLEANING_DELAY_S + 1
    caretaker.make_round()
    later.close()
    assert installation.bus.retained == {}


def test_removed_simulation_is_cleaned_up_once_more(installation: Installation) -> None:
    record = installation.record
    installation.mirror.remove(record.id)
    installation.caretaker.clean_up_later(record)
    installation.retain_everything()
    installation.let_pass(CLEANING_DELAY_S)
    assert not [topic for topic in installation.bus.retained if topic.startswith("nrp_simulation/")]


def test_simulation_that_ended_a_day_ago_is_kept_in_the_catalogue_only(installation: Installation) -> None:
    installation.mirror.take(installation.record.id, report(installation.record, SimulationEvent.STOPPED, 2))
    installation.let_pass(RECENT_S + 1)
    assert installation.mirror._records == {}
    assert installation.state is SimulationState.STOPPED


def test_round_that_fails_is_not_the_last(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretaker_module, "ROUND_S", 0.01)
    rounds = []

    def fail() -> None:
        rounds.append(1)
        raise RuntimeError("a fault")

    monkeypatch.setattr(installation.caretaker, "make_round", fail)
    installation.caretaker.start()
    wait_until(lambda: len(rounds) > 2)
    installation.caretaker.close()
