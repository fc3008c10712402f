"""Launches: from a request to a simulation that is ready, in a launcher's hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from nrp_common import tracing
from nrp_common.bus import Bus
from nrp_common.errors import BusUnavailable, CommandTimeout
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Launch, Refusal, Reply
from nrp_common.token_seal import seal_token
from nrp_common.topics import Topics
from nrp_gateway.bodies import LaunchBody
from nrp_gateway.caretaker import Caretaker
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.errors import NoRoom, RequestError, Unreachable
from nrp_gateway.launch_queue import LaunchQueue
from nrp_gateway.metrics import GatewayMetrics
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences

MOST_WAITING: Final = 32
"""Requests that may wait for a launch at once: half of the threads that answer, so that reads always find one."""

TAKEN_WITHIN_S: Final = 3.0
"""A launcher says at once whether it takes a simulation; the work comes afterwards."""

UNDER_WAY_S: Final = 2.0
"""How long after that its answer may take on a busy machine: a simulation that was taken is not to be given up."""

READY_WITHIN_S: Final = 25.0
"""After this a request is answered with a simulation that is still getting ready."""

RETRY_AFTER_S: Final = 5
"""When it may be worth trying again, where there is no room or no launcher."""

log = structlog.get_logger(__name__)


class Launches:
    """Launches simulations. Usable from several threads.

    Attributes:
        queue: those that wait for a launcher.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        mirror: Mirror,
        presences: Presences,
        caretaker: Caretaker,
        bus: Bus,
        topics: Topics,
        secret_key: str,
        metrics: GatewayMetrics,
    ) -> None:
        self._catalogue = catalogue
        self._mirror = mirror
        self._presences = presences
        self._caretaker = caretaker
        self._bus = bus
        self._topics = topics
        self._secret_key = secret_key
        self._metrics = metrics
        self.queue = LaunchQueue(mirror, presences, bus, topics, self._hand_over)
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    def launch(self, asked: LaunchBody, owner: str, token: str | None, slot: int | None) -> SimulationRecord:
        """Launch an experiment and wait until it is ready, has failed, or `READY_WITHIN_S` have passed.

        Raises:
            NoRoom: all launchers are full, or the slot is taken.
            Unreachable: no launcher is there or answers, or too many requests wait already.
            BusUnavailable: the broker cannot be reached.
        """
        if asked.queue:
            return self._launch_in_turn(asked, owner, token, slot)
        sealed_token = self._sealed(token)
        refusals: dict[str, Reply] = {}
        with self._place():
            for launcher in self._launchers(asked.launcher):
                record = self._add(asked, owner, slot, launcher=launcher)
                taken = False
                try:
                    reply = self._hand_over(record, sealed_token)
                    taken = reply.error is None
                finally:
                    if not taken:  # nothing stays of it
                        self._mirror.remove(record.id)
                if taken:
                    return self._ready(record)
                refusals[launcher] = reply
        raise _nobody_took_it(refusals)

    def _launch_in_turn(self, asked: LaunchBody, owner: str, token: str | None, slot: int | None) -> SimulationRecord:
        """Launch when it is its turn: at once, and wait until it is ready, or later."""
        with self._place():
            self._require_bus()
            record = self._add(asked, owner, slot, launcher="", queued_at=time.time(), sealed_token=self._sealed(token))
            self.queue.serve()
            record = self._mirror.get(record.id) or record
            return record if record.is_queued else self._ready(record)

    def _add(self, asked: LaunchBody, owner: str, slot: int | None, **more: Any) -> SimulationRecord:
        behalf = tracing.current()
        record = self._catalogue.add(
            experiment_id=asked.experiment_id,
            configuration=asked.configuration,
            main_script=asked.main_script,
            owner=owner,
            context_id=asked.context_id,
            slot=slot,
            wishes=asked.wishes(),
            request_id=behalf.request_id,
            traceparent=behalf.traceparent,
            **more,
        )
        self._mirror.add(record)
        return record

    def _ready(self, record: SimulationRecord) -> SimulationRecord:
        with self._metrics.launch_phase("get_ready"):
            return self._mirror.wait_for(record.id, _is_past_created, READY_WITHIN_S) or record

    def _sealed(self, token: str | None) -> str:
        return seal_token(token, self._secret_key) if self._secret_key else ""

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Unreachable(f"{MOST_WAITING} launches are under way already", retry_after_s=RETRY_AFTER_S)
        try:
            yield
        finally:
            self._places.release()

    def _require_bus(self) -> None:
        if not self._bus.is_connected:
            raise BusUnavailable(f"There is no connection to the MQTT broker at {self._bus.broker}")

    def _launchers(self, labels: list[str]) -> list[str]:
        """Who to ask, in this order."""
        self._require_bus()
        launchers = self._presences.by_room(labels)
        if launchers:
            return launchers
        if self._presences.by_room():
            has = self._presences.described()
            raise Unreachable(f"No launcher has {' and '.join(labels)} ({has})", retry_after_s=RETRY_AFTER_S)
        raise Unreachable("No launcher is connected", retry_after_s=RETRY_AFTER_S)

    def _hand_over(self, record: SimulationRecord, sealed_token: str) -> Reply:
        """Ask the launcher of a simulation to take it. What it does not take is the caller's again.

        Raises:
            BusUnavailable: the broker cannot be reached, nobody was asked.
        """
        with tracing.within(record.context):  # one that waited is given away on the occasion of another request
            return self._ask(record, sealed_token)

    def _ask(self, record: SimulationRecord, sealed_token: str) -> Reply:
        self._presences.note_asked(record.launcher)
        launch = Launch(
            deadline=time.time() + TAKEN_WITHIN_S,
            simulation_id=record.id,
            experiment_id=record.experiment_id,
            configuration=record.configuration,
            main_script=record.main_script,
            owner=record.owner,
            sealed_token=sealed_token,
            wishes=record.wishes,
            instance=self._presences.instance_of(record.launcher),
        )
        try:
            with self._metrics.launch_phase("hand_over"):
                reply = self._bus.request(
                    self._topics.launch(record.launcher), launch, timeout=TAKEN_WITHIN_S + UNDER_WAY_S
                )
        except CommandTimeout:  # perhaps it was taken, and only the answer was lost: then the verdict ends it
            if not self._mirror.give_up(record, "The launcher did not say in time that it took the simulation"):
                return Reply()  # it was taken, and has reported already
            self._caretaker.clean_up_later(record)
            return Reply(error="it does not answer")
        if reply.error is None and reply.incarnation is not None:
            if record.queued_at is not None:
                self._metrics.note_turn(time.time() - record.queued_at)
            log.info("Launched", launcher=record.launcher, experiment=record.experiment_id)
            self._mirror.note_incarnation(record.id, reply.incarnation)
        return reply


def _nobody_took_it(refusals: dict[str, Reply]) -> RequestError:
    said = "; ".join(f"'{launcher}': {reply.error}" for launcher, reply in refusals.items())
    if any(reply.refusal is Refusal.FULL for reply in refusals.values()):
        return NoRoom(
            f"There is no room for another simulation now ({said}). Try again in {RETRY_AFTER_S} s, or when one "
            "has ended",
            retry_after_s=RETRY_AFTER_S,
        )
    return Unreachable(f"No launcher took the simulation ({said})", retry_after_s=RETRY_AFTER_S)


def _is_past_created(record: SimulationRecord) -> bool:
    return record.state is not SimulationState.CREATED
