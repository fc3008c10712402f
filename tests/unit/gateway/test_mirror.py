"""The mirror never goes backwards, and ends where the server ended."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nrp_common.bus import Bus
from nrp_common.lifecycle import SOURCES, SimulationEvent, SimulationLifecycle, SimulationState
from nrp_common.messages import Archives, LifecycleMessage, Reply
from nrp_common.topics import Topics
from nrp_gateway import mirror as mirror_module
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.errors import Unreachable
from nrp_gateway.mirror import Mirror
from tests.fakes import FakeBus
from tests.unit.gateway.conftest import add, report
from tests.waiting import wait_until

TOPICS = Topics()


class Gateway:
    """The part of a gateway that mirrors, and the bus that it hears."""

    def __init__(self, catalogue: Catalogue, fence: SimulationRecord) -> None:
        self.bus = FakeBus()
        self.mirror = Mirror(catalogue, cast(Bus, self.bus), TOPICS)
        self.mirror.start()
        self._fence = fence

    def hear(self, message: LifecycleMessage, simulation_id: int) -> None:
        """Hear a report, and go on when it was handled: what comes after it in line was."""
        self.bus.hear(TOPICS.lifecycle(simulation_id), message)
        fence = self.mirror.read_again(self._fence.id)
        assert fence is not None
        next_one = report(fence, SimulationEvent.STARTED, fence.seq + 1)
        self.bus.hear(TOPICS.lifecycle(fence.id), next_one)
        wait_until(lambda: self.mirror.get(fence.id) != fence)


class MirroredSimulation(RuleBasedStateMachine):
    """A server that moves through its life, two gateways that hear of it late, twice, in any order or not at all."""

    catalogue: Catalogue

    @initialize(choices=st.lists(st.integers(0, 999), min_size=15, max_size=15))
    def launch(self, choices: list[int]) -> None:
        self.fence = add(self.catalogue)
        self.record = add(self.catalogue)
        self.server = SimulationLifecycle()
        self.choices = choices
        self.said: list[LifecycleMessage] = []
        self.gateways = [Gateway(self.catalogue, self.fence) for _ in range(2)]
        self.connected = [True, True]
        self.seen = [0, 0]
        self.written = 0
        self.move(1)

    # -- the server ----------------------------------------------------------------------------------------------------

    def move(self, steps: int) -> None:
        """Take some of the transitions that the state allows; those that end it seldom."""
        for _ in range(min(steps, len(self.choices))):
            allowed = [each for each in SimulationEvent if self.server.current in SOURCES[each]]
            lively = [each for each in allowed if not each.target.is_final]
            likely = [*lively * 5, *allowed]
            if not allowed:
                return
            source, event = self.server.current, likely[self.choices.pop() % len(likely)]
            self.server.fire(event)
            self.said.append(
                LifecycleMessage(
                    source_node="server",
                    source_state=source,
                    event=event,
                    target_state=self.server.current,
                    incarnation="i",
                    seq=len(self.said) + 1,
                )
            )

    # -- the bus -------------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), steps=st.integers(1, 3))
    def deliver(self, which: int, steps: int) -> None:
        """The newest of some transitions; the others were lost on the way, or are late."""
        self.move(steps)
        if self.connected[which]:
            self.gateways[which].hear(self.said[-1], self.record.id)

    @rule(which=st.integers(0, 1), back=st.integers(1, 6))
    def deliver_late_or_again(self, which: int, back: int) -> None:
        if self.connected[which]:
            self.gateways[which].hear(self.said[-min(back, len(self.said))], self.record.id)

    @rule(which=st.integers(0, 1), seq=st.integers(0, 100), event=st.sampled_from(SimulationEvent))
    def deliver_of_another_incarnation(self, which: int, seq: int, event: SimulationEvent) -> None:
        if self.connected[which] and self.gateways[which].mirror.get(self.record.id) != self.record:
            self.gateways[which].hear(report(self.record, event, seq, incarnation="other"), self.record.id)

    @rule(which=st.integers(0, 1))
    def answer_command(self, which: int) -> None:
        """The answer to a command comes before the report of what it did."""
        self.move(1)
        mirror, newest = self.gateways[which].mirror, self.said[-1]
        record = mirror.get(self.record.id)
        assert record is not None
        mirror.note_reply(record, Reply(state=newest.target_state, incarnation="i", seq=newest.seq))

    @rule(which=st.integers(0, 1))
    def disconnect(self, which: int) -> None:
        self.connected[which] = False

    @rule(which=st.integers(0, 1))
    def reconnect(self, which: int) -> None:
        """The broker has kept the newest message."""
        self.connected[which] = True
        self.deliver(which, 0)

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.gateways[which].mirror.close()
        self.gateways[which] = Gateway(self.catalogue, self.fence)
        self.reconnect(which)

    # -- the promise ---------------------------------------------------------------------------------------------------

    @invariant()
    def mirror_shows_what_was_said_and_never_goes_backwards(self) -> None:
        for which, gateway in enumerate(self.gateways):
            record = gateway.mirror.get(self.record.id)
            assert record is not None
            assert record.seq >= self.seen[which]
            self.seen[which] = record.seq
            shown = self.said[record.seq - 1].target_state if record.seq else SimulationState.CREATED
            assert record.state is shown

    @invariant()
    def catalogue_never_goes_backwards(self) -> None:
        record = self.catalogue.get(self.record.id)
        assert record is not None
        assert record.seq >= self.written
        self.written = record.seq

    def teardown(self) -> None:
        for which, gateway in enumerate(self.gateways):
            self.reconnect(which)
            record = gateway.mirror.get(self.record.id)
            assert record is not None
            assert record.state is self.server.current
            gateway.mirror.close()
            assert record == self.catalogue.get(self.record.id)
        for each in (self.record, self.fence):
            self.catalogue.remove(each.id)


@pytest.mark.parametrize("written_after_s", [0.0, mirror_module.WRITTEN_AFTER_S])
def test_mirror_ends_where_the_server_ended(written_after_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "WRITTEN_AFTER_S", written_after_s)
    with tempfile.TemporaryDirectory() as folder:
        MirroredSimulation.catalogue = Catalogue(f"sqlite:///{folder}/catalogue.sqlite")
        MirroredSimulation.catalogue.migrate()
        case = MirroredSimulation.TestCase()
        case.settings = settings(
            max_examples=50, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        )
        case.runTest()
        MirroredSimulation.catalogue.close()


def test_gateway_that_is_behind_does_not_overwrite_what_another_wrote(mirror: Mirror, catalogue: Catalogue) -> None:
    record = add(catalogue)
    mirror.add(record)
    catalogue.report(record.id, report(record, SimulationEvent.COMPLETED, 5))
    assert not mirror.take(record.id, report(record, SimulationEvent.STARTED, 2))
    shown = mirror.get(record.id)
    assert shown == catalogue.get(record.id)
    assert shown is not None
    assert shown.seq == 5


# -- one promise each ------------------------------------------------------------------------------------------------


def test_waiting_ends_when_the_condition_holds(mirror: Mirror, catalogue: Catalogue, bus: FakeBus) -> None:
    record = add(catalogue)
    mirror.add(record)
    threading.Timer(
        0.05, lambda: bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.INITIALIZED, 1))
    ).start()
    ready = mirror.wait_for(record.id, lambda each: each.seq > 0, 10)
    assert ready is not None
    assert ready.state is SimulationState.PAUSED


def test_waiting_ends_with_the_record_as_it_is(mirror: Mirror, catalogue: Catalogue) -> None:
    record = add(catalogue)
    mirror.add(record)
    assert mirror.wait_for(record.id, lambda _: False, 0.01) == record


def test_waiting_ends_when_the_simulation_is_removed(mirror: Mirror, catalogue: Catalogue) -> None:
    record = add(catalogue)
    mirror.add(record)
    threading.Timer(0.05, lambda: mirror.remove(record.id)).start()
    assert mirror.wait_for(record.id, lambda _: False, 10) is None


def test_removed_simulation_does_not_come_back(mirror: Mirror, catalogue: Catalogue, bus: FakeBus) -> None:
    record = add(catalogue)
    mirror.add(record)
    mirror.remove(record.id)
    assert not mirror.take(record.id, report(record, SimulationEvent.FAILED, 9))
    mirror.look_for_new()
    assert mirror.get(record.id) is None
    assert mirror.live_and_recent() == []


def test_simulations_of_other_gateways_are_found(mirror: Mirror, catalogue: Catalogue) -> None:
    record = add(catalogue)
    assert mirror.live_and_recent() == []
    mirror.look_for_new()
    assert mirror.live_and_recent() == [record]


def test_only_what_is_new_and_recent_is_read_again(
    mirror: Mirror, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = add(catalogue)
    mirror.take(old.id, report(old, SimulationEvent.FAILED, 1))
    monkeypatch.setattr(mirror_module, "RECENT_S", -60)
    mirror.forget_ended_before(time.time() + 60)
    mirror.look_for_new()
    assert mirror.live_and_recent() == []
    assert mirror.get(old.id) is not None


def test_removal_by_another_gateway_is_noticed(mirror: Mirror, catalogue: Catalogue, bus: FakeBus) -> None:
    record = add(catalogue)
    mirror.add(record)
    catalogue.remove(record.id)
    bus.hear(TOPICS.lifecycle(record.id), b"")
    wait_until(lambda: mirror.live_and_recent() == [])


def test_verdict_stands_when_nobody_spoke_before(mirror: Mirror, catalogue: Catalogue, bus: FakeBus) -> None:
    record = add(catalogue)
    mirror.add(record)
    assert mirror.give_up(record, "its launcher is gone")
    kept = LifecycleMessage.from_json(bus.retained[TOPICS.lifecycle(record.id)])
    assert kept is not None
    assert (kept.target_state, kept.seq, kept.reason) == (SimulationState.FAILED, 1, "its launcher is gone")
    assert b'"state":"failed"' in bus.retained[TOPICS.status(record.id)]
    assert b"its launcher is gone" in bus.retained[TOPICS.status(record.id)]


def test_verdict_falls_when_somebody_spoke_before(mirror: Mirror, catalogue: Catalogue, bus: FakeBus) -> None:
    record = add(catalogue)
    mirror.add(record)
    catalogue.report(record.id, report(record, SimulationEvent.STOPPED, 1))  # heard by another gateway only
    assert not mirror.give_up(record, "its launcher is gone")
    assert bus.retained == {}
    shown = mirror.get(record.id)
    assert shown is not None
    assert shown.state is SimulationState.STOPPED


@contextmanager
def unreachable(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The database is away until the block ends; the event tells that somebody tried."""
    tried = threading.Event()

    def fail(*_: object) -> None:
        tried.set()
        raise Unreachable

    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "report", fail)
        yield tried


def test_report_is_told_once_the_catalogue_is_back_and_other_gateways_can_read_it(
    mirror: Mirror, catalogue: Catalogue, bus: FakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "CATALOGUE_RETRY_S", 0.02)
    record = add(catalogue)
    mirror.add(record)
    with unreachable(catalogue, monkeypatch) as tried:
        bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.INITIALIZED, 1))
        assert tried.wait(10)
        assert mirror.get(record.id) == record
    ready = mirror.wait_for(record.id, lambda each: each.state is SimulationState.PAUSED, 10)
    assert ready is not None
    assert ready.seq == 1
    assert ready == catalogue.get(record.id)


def test_an_answer_is_seen_at_once_and_written_once_the_catalogue_is_back(
    mirror: Mirror, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "CATALOGUE_RETRY_S", 0.02)
    record = add(catalogue)
    mirror.add(record)
    with unreachable(catalogue, monkeypatch) as tried:
        mirror.note_reply(record, Reply(state=SimulationState.STARTED, incarnation="i", seq=2))
        shown = mirror.get(record.id)
        assert shown is not None
        assert shown.state is SimulationState.STARTED
        assert tried.wait(10)
    wait_until(lambda: catalogue.get(record.id) == shown)


def test_what_the_catalogue_says_does_not_undo_an_answer_that_is_not_written_yet(
    mirror: Mirror, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "CATALOGUE_RETRY_S", 0.02)
    record = add(catalogue)
    mirror.add(record)
    mirror.note_incarnation(record.id, "i")
    with unreachable(catalogue, monkeypatch):
        for seq, state in ((2, SimulationState.STARTED), (3, SimulationState.PAUSED)):
            mirror.note_reply(record, Reply(state=state, incarnation="i", seq=seq))
        shown = mirror.get(record.id)
        assert mirror.read_again(record.id) == shown
        mirror.note_cleaned(record)
        shown = mirror.get(record.id)
        assert shown is not None
        assert (shown.state, shown.seq, shown.cleaned) == (SimulationState.PAUSED, 3, True)
    wait_until(lambda: catalogue.get(record.id) == shown)
    assert mirror.get(record.id) == shown


def test_of_several_states_in_a_row_the_last_is_written(
    mirror: Mirror, catalogue: Catalogue, bus: FakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "WRITTEN_AFTER_S", 600.0)
    written: list[int] = []
    write = catalogue.report
    monkeypatch.setattr(catalogue, "report", lambda *report: [written.append(report[1].seq), write(*report)][1])
    record = add(catalogue)
    mirror.add(record)
    bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.INITIALIZED, 1))
    wait_until(lambda: written == [1])
    for seq in range(2, 10, 2):
        bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.PAUSED, seq))
        mirror.note_reply(record, Reply(state=SimulationState.STARTED, incarnation="i", seq=seq + 1))
    assert mirror.live_and_recent()[0].seq == 9
    mirror.close()
    assert written == [1, 9]


def test_states_are_written_in_time_while_reports_keep_coming(
    mirror: Mirror, catalogue: Catalogue, bus: FakeBus
) -> None:
    record, other = add(catalogue), add(catalogue)
    for each in (record, other):
        mirror.add(each)
    bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.INITIALIZED, 1))
    over = threading.Event()

    def report_on() -> None:
        seq = 0
        while not over.is_set():
            seq += 1
            bus.hear(TOPICS.lifecycle(other.id), report(other, SimulationEvent.STARTED, seq))

    reporting = threading.Thread(target=report_on)
    reporting.start()
    try:
        wait_until(lambda: catalogue.get(record.id) == mirror.get(record.id) != record)
    finally:
        over.set()
        reporting.join()


def test_an_answer_does_not_undo_a_verdict_that_another_gateway_wrote(mirror: Mirror, catalogue: Catalogue) -> None:
    record = add(catalogue)
    mirror.add(record)
    catalogue.report(record.id, report(record, SimulationEvent.FAILED, 1))
    mirror.note_reply(record, Reply(state=SimulationState.STARTED, incarnation="i", seq=2))
    wait_until(lambda: mirror.get(record.id) == catalogue.get(record.id))
    ended = mirror.get(record.id)
    assert ended is not None
    assert ended.state is SimulationState.FAILED


def test_mirror_closes_while_the_catalogue_is_away(
    catalogue: Catalogue, bus: FakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "CATALOGUE_RETRY_S", 600)
    mirror = Mirror(catalogue, cast(Bus, bus), TOPICS)
    mirror.start()
    record = add(catalogue)
    mirror.add(record)
    with unreachable(catalogue, monkeypatch) as tried:
        bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.INITIALIZED, 1))
        assert tried.wait(10)
        mirror.close()  # or this test would take too long


def test_status_of_unknown_simulations_is_not_kept(mirror: Mirror, bus: FakeBus) -> None:
    bus.hear(TOPICS.status(4711), b'{"state": "started"}')
    assert mirror.status(4711) is None


def test_report_that_is_too_large_is_not_taken(mirror: Mirror, catalogue: Catalogue, bus: FakeBus) -> None:
    record = add(catalogue)
    mirror.add(record)
    bus.hear(TOPICS.lifecycle(record.id), report(record, SimulationEvent.FAILED, 1, reason="x" * 300_000))
    bus.hear(TOPICS.archives(record.id), Archives(logs="heard.zip"))
    wait_until(lambda: [each.logs for each in mirror.live_and_recent()] == ["heard.zip"])
    assert [each.state for each in mirror.live_and_recent()] == [SimulationState.CREATED]


def test_archives_of_a_simulation_that_ended_long_ago_are_noted(
    mirror: Mirror, catalogue: Catalogue, bus: FakeBus, tmp_path: Path
) -> None:
    record = add(catalogue)
    mirror.take(record.id, report(record, SimulationEvent.STOPPED, 1))
    mirror.forget_ended_before(time.time() + 1)
    bus.hear(TOPICS.archives(record.id), Archives(logs="late.zip"))

    def noted() -> str | None:
        found = catalogue.get(record.id)
        return found.logs if found else None

    wait_until(lambda: noted() == "late.zip")
