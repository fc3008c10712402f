"""The mirror: what the bus reports of every simulation, held in memory and written to the catalogue.

All reads of the REST API are served from here. A report counts when it is newer than what is known: a late, repeated
or reordered message, a retained leftover or a report of another incarnation moves nothing. Final states are final.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from nrp_common.bus import Bus
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import (
    IDLE,
    WAITING_FOR_A_NODE,
    Archives,
    FailedStatus,
    IdleWarning,
    LifecycleMessage,
    NodeQueue,
    Progress,
    Reply,
    Status,
)
from nrp_common.topics import Topics
from nrp_gateway.backend_lifecycle import BackendSimulationLifecycle
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.errors import Unreachable

RECENT_S: Final = 24 * 3600
"""How long an ended simulation is listed."""

OUT_OF_ORDER: Final = 200
"""So many simulations may be written to the catalogue by several gateways at once, and be seen there in any order."""

LARGEST_REPORT: Final = 256 * 1024
"""In bytes. A report is some hundred bytes and a reason; nothing larger is kept for anybody."""

CATALOGUE_RETRY_S: Final = 1.0

WRITTEN_AFTER_S: Final = 0.02
"""How long a state that is not final waits to be written, while only the bus retains it: whoever asked for it is
answered first, and of several in a row the last is written. Commands take a tenth less."""

IDLE_OVERDUE_S: Final = 30.0
"""How long after its time a simulation may still be about to be stopped: then whoever said so has ended itself."""

_IDLE: Final = f'"{IDLE}"'.encode()
_WAITING_FOR_A_NODE: Final = f'"{WAITING_FOR_A_NODE}"'.encode()

GATEWAY_NODE: Final = "nrp_gateway"
"""Who speaks in a verdict of the gateway."""

_Report = tuple[Callable[[int, Any], object], int, Any]
"""What takes it over, of which simulation, and what was said."""

log = structlog.get_logger(__name__)


class Mirror:
    """The live picture of all simulations. Usable from several threads."""

    def __init__(self, catalogue: Catalogue, bus: Bus, topics: Topics) -> None:
        self._catalogue = catalogue
        self._bus = bus
        self._topics = topics
        self._changed = threading.Condition(threading.RLock())  # guards the records and their order of change
        self._records: dict[int, SimulationRecord] = {}
        self._newest = 0
        self._statuses: dict[int, bytes] = {}
        self._idle: dict[int, bytes] = {}
        self._node_queues: dict[int, bytes] = {}
        self._reports: queue.SimpleQueue[_Report | None] = queue.SimpleQueue()
        self._noted: dict[int, LifecycleMessage] = {}  # by simulation, to be written; these two are the writer's alone
        self._write_at = 0.0
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_reports, name="mirror", daemon=True)

    def start(self) -> None:
        """Read the catalogue and listen to the bus."""
        self.look_for_new()
        self._writer.start()
        self._listen("status", self._status_heard, qos=0)
        self._listen("lifecycle", lambda *report: self._reports.put((self._lifecycle_reported, *report)))
        self._listen("archives", lambda *report: self._reports.put((self._archives_reported, *report)))

    def close(self) -> None:
        """Write what was heard so far, then stop."""
        self._closing.set()
        self._reports.put(None)
        self._writer.join()

    def _listen(self, leaf: str, handler: Callable[[int, bytes], None], qos: int = 1) -> None:
        def take(topic: str, payload: bytes) -> None:
            simulation_id = self._topics.simulation_id_of(topic)
            if simulation_id is not None and len(payload) <= LARGEST_REPORT:
                handler(simulation_id, payload)

        self._bus.subscribe(self._topics.each_simulation(leaf), take, qos=qos)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, simulation_id: int) -> SimulationRecord | None:
        """One simulation, None when there is none of that id. Only those that ended long ago cost a query."""
        if (record := self._records.get(simulation_id)) is not None:
            return record
        with self._changed:  # one that is removed meanwhile must not come back
            record = self._records.get(simulation_id) or self._catalogue.get(simulation_id)
            if record is not None and not record.state.is_final:
                self.add(record)
            return record

    def live_and_recent(self) -> list[SimulationRecord]:
        """All that run, and those that ended less than a day ago, ascending by id."""
        since = time.time() - RECENT_S
        records = self._records.copy().values()  # copied in one go, without waiting for who writes to the catalogue
        return sorted((each for each in records if each.ended_at is None or each.ended_at >= since), key=_by_id)

    def count_by_state(self) -> dict[SimulationState, int]:
        """How many of these are in each state, those included that none is in."""
        since = time.time() - RECENT_S
        counts = dict.fromkeys(SimulationState, 0)
        for record in self._records.copy().values():
            if record.ended_at is None or record.ended_at >= since:
                counts[record.state] += 1
        return counts

    @property
    def unwritten(self) -> int:
        """How many reports wait to be written to the catalogue."""
        return self._reports.qsize() + len(self._noted)

    def status(self, simulation_id: int) -> Status | None:
        """The times that a simulation last reported, None when it reported none to this gateway."""
        payload = self._statuses.get(simulation_id)
        return None if payload is None else Status.from_json(payload)

    def stops_at(self, simulation_id: int) -> float | None:
        """When a simulation is going to be stopped as idle, in seconds since 1970; None when it is not."""
        payload = self._idle.get(simulation_id)
        heard = None if payload is None else Progress.from_json(payload)
        record = self._records.get(simulation_id)
        if heard is None or not isinstance(heard.progress, IdleWarning) or record is None or record.state.is_final:
            return None
        return heard.progress.stops_at if heard.progress.stops_at > time.time() - IDLE_OVERDUE_S else None

    def node_queue(self, simulation_id: int) -> NodeQueue | None:
        """Where a simulation is in the queue of its cluster, None when it is in none."""
        payload = self._node_queues.get(simulation_id)
        heard = None if payload is None else Progress.from_json(payload)
        record = self._records.get(simulation_id)
        if heard is None or record is None or record.state is not SimulationState.CREATED:
            return None
        return heard.progress if isinstance(heard.progress, NodeQueue) else None

    def wait_for(
        self, simulation_id: int, condition: Callable[[SimulationRecord], bool], timeout: float
    ) -> SimulationRecord | None:
        """The record once `condition` holds of it, or as it is after `timeout` seconds; None when it is gone."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                record = self._records.get(simulation_id)
                left = deadline - time.monotonic()
                if record is None or condition(record) or left <= 0:
                    return record
                self._changed.wait(left)

    # -- changes by this gateway ---------------------------------------------------------------------------------------

    def add(self, record: SimulationRecord) -> None:
        """Follow a simulation that is new in the catalogue."""
        with self._changed:
            self._records.setdefault(record.id, record)

    def note_incarnation(self, simulation_id: int, incarnation: str) -> None:
        """Note which server will report, before it does."""
        with self._changed:
            if (noted := self._catalogue.note_incarnation(simulation_id, incarnation)) is not None:
                self._keep(simulation_id, noted)

    def has_place_for(self, owner: str) -> bool:
        """Whether an owner may have one more simulation at a launcher, as far as this gateway knows."""
        most = self._catalogue.simulations_per_owner
        if most is None:
            return True
        return sum(each.owner == owner and each.holds_a_place for each in self._records.copy().values()) < most

    def give_to(self, record: SimulationRecord, launcher: str) -> SimulationRecord | None:
        """Note which launcher a queued simulation is given to.

        Returns:
            The new record; None when another gateway did that, it ended, or its owner has as many as may be.
        """
        with self._changed:
            given = self._catalogue.give_to(record, launcher)
            if given is None:
                self.read_again(record.id)
            else:
                self._keep(record.id, given)
            return given

    def take_back(self, simulation_id: int) -> None:
        """Let a simulation wait again that its launcher did not take."""
        with self._changed:
            self._catalogue.take_back(simulation_id)
            self.read_again(simulation_id)

    def note_reply(self, record: SimulationRecord, reply: Reply) -> None:
        """Take over the state in an answer, so that who asked sees it at once; the same is reported on the bus.

        It is written to the catalogue afterwards, as whoever asked waits. Final states are left to the launcher's last
        word, which says more.
        """
        if reply.state is None or reply.seq is None or reply.state.is_final or reply.state is SimulationState.CREATED:
            return
        message = LifecycleMessage(
            source_node=GATEWAY_NODE,
            source_state=record.state,
            event=SimulationEvent(reply.state.value),
            target_state=reply.state,
            incarnation=reply.incarnation or record.incarnation,
            seq=reply.seq,
        )
        if self._note(record.id, message):
            self._reports.put((self._write_later, record.id, message))

    def note_cleaned(self, record: SimulationRecord) -> None:
        """Note that a simulation's retained messages are removed from the broker."""
        with self._changed:
            self._keep(record.id, self._catalogue.note_cleaned(record.id))

    def remove(self, simulation_id: int) -> None:
        """Forget a simulation, here and in the catalogue."""
        with self._changed:
            self._catalogue.remove(simulation_id)
            self._forget(simulation_id)

    def forget_ended_before(self, moment: float) -> None:
        """Keep simulations that ended before `moment` in the catalogue only."""
        with self._changed:
            ended = [each.id for each in self._records.values() if each.ended_at is not None and each.ended_at < moment]
            for simulation_id in ended:
                self._forget(simulation_id)

    def look_for_new(self) -> None:
        """Follow simulations that other gateways added to the catalogue."""
        with self._changed:
            since = time.time() - RECENT_S
            for record in self._catalogue.unfinished_or_ended_since(since, newer_than=self._newest - OUT_OF_ORDER):
                self.add(record)
                self._newest = max(self._newest, record.id)

    def give_up(self, record: SimulationRecord, reason: str) -> bool:
        """Pass the verdict that a simulation failed, when there is nobody left to say it.

        Returns:
            Whether it stands: somebody else's last word may have come first.
        """
        stands = self._pass_verdict(record, SimulationEvent.FAILED, reason)
        if stands:
            log.warning("Gave up a simulation", simulation=record.id, reason=reason)
        return stands

    def stop_waiting(self, record: SimulationRecord) -> bool:
        """Pass the verdict that a simulation was stopped that no launcher has. Returns whether it stands."""
        return self._pass_verdict(record, SimulationEvent.STOPPED, None)

    def _pass_verdict(self, record: SimulationRecord, event: SimulationEvent, reason: str | None) -> bool:
        message = LifecycleMessage(
            source_node=GATEWAY_NODE,
            source_state=record.state,
            event=event,
            target_state=event.target,
            incarnation=record.incarnation,
            seq=record.seq + 1,
            reason=reason,
        )
        if not self.take(record.id, message):
            return False
        last = self.status(record.id)
        times = last.model_dump(include={"real_time", "simulation_time", "simulation_time_left"}) if last else {}
        failed = event is SimulationEvent.FAILED
        status = FailedStatus(state=event.target, error=reason or "", **times) if failed else None
        self._bus.publish(self._topics.lifecycle(record.id), message, qos=1, retain=True)
        status_topic = self._topics.status(record.id)
        self._bus.publish(status_topic, status or Status(state=event.target, **times), qos=1, retain=True)
        return True

    def _forget(self, simulation_id: int) -> None:
        with self._changed:
            self._records.pop(simulation_id, None)
            self._statuses.pop(simulation_id, None)
            self._idle.pop(simulation_id, None)
            self._node_queues.pop(simulation_id, None)
            self._changed.notify_all()

    # -- reports -------------------------------------------------------------------------------------------------------

    def take(self, simulation_id: int, message: LifecycleMessage) -> bool:
        """Take over a reported state.

        Returns:
            Whether it counted: it was newer than what was known.
        """
        with self._changed:
            if self._known_before(simulation_id, message) is None:
                return False
            return self._keep_written(simulation_id, self._catalogue.report(simulation_id, message))

    def _known_before(self, simulation_id: int, message: LifecycleMessage) -> SimulationRecord | None:
        """What is known of a simulation, None when this message says nothing newer."""
        record = self.get(simulation_id)
        if record is None:
            return None
        lifecycle = BackendSimulationLifecycle(record.state, record.incarnation, record.seq)
        return record if lifecycle.mirror(message) else None

    def _note(self, simulation_id: int, message: LifecycleMessage) -> bool:
        """Take over a state that is not final, before it is written. Returns whether it counted."""
        with self._changed:
            known = self._known_before(simulation_id, message)
            if known is not None:
                reached, incarnation = message.target_state, message.incarnation
                self._keep(simulation_id, replace(known, state=reached, incarnation=incarnation, seq=message.seq))
            return known is not None

    def _write_later(self, simulation_id: int, message: LifecycleMessage) -> None:
        if not self._noted:
            self._write_at = time.monotonic() + WRITTEN_AFTER_S
        earlier = self._noted.get(simulation_id)
        if earlier is None or earlier.seq < message.seq:
            self._noted[simulation_id] = message

    def _write_noted(self) -> None:
        for simulation_id, message in self._noted.items():
            self._write_report(self._write_state, simulation_id, message)
        self._noted.clear()

    def _write_state(self, simulation_id: int, message: LifecycleMessage) -> None:
        written = self._catalogue.report(simulation_id, message)  # while nobody waits for the records
        with self._changed:
            if simulation_id in self._records:  # else it was removed meanwhile
                self._keep_written(simulation_id, written)

    def _keep_written(self, simulation_id: int, written: SimulationRecord | None) -> bool:
        if written is None:  # another gateway knows more
            self.read_again(simulation_id)
        else:
            self._keep(simulation_id, written)
        return written is not None

    def read_again(self, simulation_id: int) -> SimulationRecord | None:
        """The record as the catalogue has it, where other gateways write too."""
        with self._changed:
            return self._keep(simulation_id, self._catalogue.get(simulation_id))

    def _keep(self, simulation_id: int, record: SimulationRecord | None) -> SimulationRecord | None:
        if record is None:
            self._forget(simulation_id)
            return None
        known = self._records.get(simulation_id)
        if known is not None and known.is_ahead_of(record):  # what an answer said is still being written
            record = replace(record, state=known.state, incarnation=known.incarnation, seq=known.seq)
        self._records[simulation_id] = record
        self._changed.notify_all()
        return record

    def _write_reports(self) -> None:
        while (report := self._next_report()) is not None:
            self._write_report(*report)
        self._write_noted()

    def _next_report(self) -> _Report | None:
        """The next one, None at the end. What was noted is written as soon as it is time, however many there are."""
        while self._noted:
            with suppress(queue.Empty):
                if (left := self._write_at - time.monotonic()) > 0:
                    return self._reports.get(timeout=left)
            self._write_noted()
        return self._reports.get()

    def _write_report(self, write: Callable[[int, Any], object], simulation_id: int, report: Any) -> None:
        while True:
            try:
                write(simulation_id, report)
                return
            except Unreachable as error:  # the next report could not be written either
                log.error("Cannot note a report, trying again", simulation=simulation_id, error=str(error))
                if self._closing.wait(CATALOGUE_RETRY_S):
                    return
            except Exception:
                log.exception("A report could not be handled", simulation=simulation_id)
                return

    def _status_heard(self, simulation_id: int, payload: bytes) -> None:
        # Read when somebody asks: hundreds arrive a second. Progress messages share the topic, without a state.
        if simulation_id not in self._records:
            return
        if b'"state"' in payload:
            self._statuses[simulation_id] = payload
        elif _IDLE in payload:
            self._idle[simulation_id] = payload
        elif _WAITING_FOR_A_NODE in payload:
            self._node_queues[simulation_id] = payload

    def _lifecycle_reported(self, simulation_id: int, payload: bytes) -> None:
        if not payload:  # cleared: perhaps another gateway deleted it
            if simulation_id in self._records:
                self.read_again(simulation_id)
            return
        message = LifecycleMessage.from_json(payload)
        if message is None or message.target_state is SimulationState.CREATED:
            return
        if message.target_state.is_final:
            if self.take(simulation_id, message):
                self._noted.pop(simulation_id, None)
            return
        known = self._known_before(simulation_id, message)
        if known is None:
            return
        if known.state is SimulationState.CREATED:
            # Told when it is written: the owner of one that is ready may ask another gateway next, which reads it.
            self._write_state(simulation_id, message)
        elif self._note(simulation_id, message):
            self._write_later(simulation_id, message)

    def _archives_reported(self, simulation_id: int, payload: bytes) -> None:
        archives = Archives.from_json(payload) if payload else None
        if archives is not None and self.get(simulation_id) is not None:
            with self._changed:
                self._keep(simulation_id, self._catalogue.store_archives(simulation_id, archives))


def _by_id(record: SimulationRecord) -> int:
    return record.id
