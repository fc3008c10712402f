"""The caretaker: what a gateway does by the clock.

It passes the verdict on simulations that nobody is left to report of, removes what ended simulations left retained on
the broker, and follows simulations that other gateways launched.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog

from nrp_common.bus import Bus
from nrp_common.errors import NRPError
from nrp_common.topics import Topics
from nrp_gateway.catalogue import SimulationRecord
from nrp_gateway.mirror import RECENT_S, Mirror
from nrp_gateway.presences import Presences

ROUND_S: Final = 1.0

ABSENCE_GRACE_S: Final = 30.0
"""How long launcher and server may both be away before their simulation is given up; counted while connected."""

QUEUED_GRACE_S: Final = 600.0
"""The same while the simulation waits in a cluster's queue: there is no server yet, and its launcher may come back."""

CLEANING_DELAY_S: Final = 60.0
"""How long the retained messages of an ended simulation stay, for who connects late."""

RETAINED_LEAVES: Final = ("status", "lifecycle", "archives", "data", "welcome")
"""The retained topics of a simulation."""

log = structlog.get_logger(__name__)


class Caretaker:
    """Makes its round every second, in a thread of its own."""

    def __init__(self, mirror: Mirror, presences: Presences, bus: Bus, topics: Topics) -> None:
        self._mirror = mirror
        self._presences = presences
        self._bus = bus
        self._topics = topics
        self._absent_since: dict[int, float] = {}
        self._lost_since: dict[str, float] = {}
        self._removed: dict[int, tuple[float, SimulationRecord]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="caretaker", daemon=True)

    def start(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def close(self) -> None:
        """End the rounds."""
        self._closing.set()
        self._thread.join()

    def clean_up(self, record: SimulationRecord) -> None:
        """Remove all that is retained of a simulation from the broker."""
        for leaf in RETAINED_LEAVES:
            self._bus.publish(self._topics.simulation(record.id, leaf), b"", qos=1, retain=True)
        if record.incarnation:
            self._bus.publish(self._topics.server_presence(record.incarnation), b"", qos=1, retain=True)

    def clean_up_later(self, record: SimulationRecord) -> None:
        """Do so once more after the usual delay: a removed simulation's launcher may still have said something."""
        self._removed[record.id] = (time.monotonic() + CLEANING_DELAY_S, record)

    def _is_abandoned(self, record: SimulationRecord) -> bool:
        if self._presences.has_server(record.incarnation):
            return False
        # A launcher that runs nothing has lost what it knew; one that never answered took nothing.
        return not record.incarnation or not self._presences.has_busy_launcher(record.launcher)

    def make_round(self) -> None:
        """Do what is due."""
        self._mirror.look_for_new()
        self._mirror.forget_ended_before(time.time() - RECENT_S)
        if not self._bus.is_connected:
            self._absent_since.clear()
            return
        records = self._mirror.live_and_recent()
        unfinished = [each for each in records if not each.state.is_final]
        self._judge([each for each in unfinished if not each.is_queued])
        self._clean_wills({each.incarnation for each in unfinished})
        self._clean([each for each in records if each.state.is_final and not each.cleaned])

    def _judge(self, unfinished: list[SimulationRecord]) -> None:
        now = time.monotonic()
        abandoned = {each.id for each in unfinished if self._is_abandoned(each)}
        self._absent_since = {each: self._absent_since.get(each, now) for each in abandoned}
        for simulation_id, since in self._absent_since.items():
            is_in_a_queue = self._mirror.node_queue(simulation_id) is not None
            if now - since < (QUEUED_GRACE_S if is_in_a_queue else ABSENCE_GRACE_S):
                continue
            record = self._mirror.read_again(simulation_id)  # another gateway may know more
            if record is not None and not record.state.is_final and self._is_abandoned(record):
                self._mirror.give_up(record, _abandonment(record))

    def _clean(self, ended: list[SimulationRecord]) -> None:
        for record in ended:
            if record.ended_at is not None and record.ended_at + CLEANING_DELAY_S <= time.time():
                self.clean_up(record)
                self._mirror.note_cleaned(record)
        for simulation_id, (due, record) in list(self._removed.items()):
            if due <= time.monotonic():
                self.clean_up(record)
                del self._removed[simulation_id]

    def _clean_wills(self, in_use: set[str]) -> None:
        """Remove the last wills of servers that had no simulation, or one that is forgotten."""
        now = time.monotonic()
        self._lost_since = {each: self._lost_since.get(each, now) for each in self._presences.lost_servers - in_use}
        for incarnation, since in self._lost_since.items():
            if now - since >= CLEANING_DELAY_S:
                self._bus.publish(self._topics.server_presence(incarnation), b"", qos=1, retain=True)

    def _work(self) -> None:
        while not self._closing.wait(ROUND_S):
            try:
                self.make_round()
            except NRPError as error:
                log.error("A round was cut short", error=str(error))
            except Exception:
                log.exception("A round failed")


def _abandonment(record: SimulationRecord) -> str:
    if not record.incarnation:
        return f"The launcher '{record.launcher}' did not take the simulation before its gateway ended"
    return f"The simulation server is gone, and the launcher '{record.launcher}' does not know the simulation any more"
