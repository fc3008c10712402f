"""Launches: from a request to a simulation that is ready, in a launcher's hands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

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
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences

MOST_WAITING: Final = 32
"""Requests that may wait for a launch at once: half of the threads that answer, so that reads always find one."""

TAKEN_WITHIN_S: Final = 3.0
"""A launcher says at once whether it takes a simulation; the work comes afterwards."""

READY_WITHIN_S: Final = 25.0
"""After this a request is answered with a simulation that is still getting ready."""

RETRY_AFTER_S: Final = 5
"""When it may be worth trying again, where there is no room or no launcher."""

log = structlog.get_logger(__name__)


class Launches:
    """Launches simulations. Usable from several threads."""

    def __init__(
        self,
        catalogue: Catalogue,
        mirror: Mirror,
        presences: Presences,
        caretaker: Caretaker,
        bus: Bus,
        topics: Topics,
        secret_key: str,
    ) -> None:
        self._catalogue = catalogue
        self._mirror = mirror
        self._presences = presences
        self._caretaker = caretaker
        self._bus = bus
        self._topics = topics
        self._secret_key = secret_key
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    def launch(self, asked: LaunchBody, owner: str, token: str | None, slot: int | None) -> SimulationRecord:
        """Launch an experiment and wait until it is ready, has failed, or `READY_WITHIN_S` have passed.

        Raises:
            NoRoom: all launchers are full, or the slot is taken.
            Unreachable: no launcher is there or answers, or too many requests wait already.
            BusUnavailable: the broker cannot be reached.
        """
        refusals: dict[str, Reply] = {}
        with self._place():
            for launcher in self._launchers():
                record = self._catalogue.add(
                    experiment_id=asked.experiment_id,
                    configuration=asked.configuration,
                    main_script=asked.main_script,
                    owner=owner,
                    context_id=asked.context_id,
                    slot=slot,
                    launcher=launcher,
                )
                self._mirror.add(record)
                reply = self._hand_over(record, token, asked.real_time_factor)
                if reply.error is None:
                    return self._mirror.wait_for(record.id, _is_past_created, READY_WITHIN_S) or record
                refusals[launcher] = reply
        raise _nobody_took_it(refusals)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Unreachable(f"{MOST_WAITING} launches are under way already", retry_after_s=RETRY_AFTER_S)
        try:
            yield
        finally:
            self._places.release()

    def _launchers(self) -> list[str]:
        """Who to ask, in this order."""
        if not self._bus.is_connected:
            raise BusUnavailable(f"There is no connection to the MQTT broker at {self._bus.broker}")
        launchers = self._presences.by_room()
        if not launchers:
            raise Unreachable("No launcher is connected", retry_after_s=RETRY_AFTER_S)
        return launchers

    def _hand_over(self, record: SimulationRecord, token: str | None, real_time_factor: float | None) -> Reply:
        """Give a simulation to its launcher. When that does not take it, nothing stays of the simulation."""
        self._presences.note_asked(record.launcher)
        try:
            reply = self._bus.request(
                self._topics.launch(record.launcher),
                Launch(
                    deadline=time.time() + TAKEN_WITHIN_S,
                    simulation_id=record.id,
                    experiment_id=record.experiment_id,
                    configuration=record.configuration,
                    main_script=record.main_script,
                    real_time_factor=real_time_factor,
                    owner=record.owner,
                    sealed_token=seal_token(token, self._secret_key) if self._secret_key else "",
                ),
                timeout=TAKEN_WITHIN_S,
            )
        except CommandTimeout:  # perhaps it was taken, and only the answer was lost: then the verdict ends it
            if not self._mirror.give_up(record, "The launcher did not say in time that it took the simulation"):
                return Reply()  # it was taken, and has reported already
            self._caretaker.clean_up_later(record)
            reply = Reply(error="it does not answer")
        except BaseException:
            self._mirror.remove(record.id)
            raise
        if reply.error is not None:
            self._mirror.remove(record.id)
        elif reply.incarnation is not None:
            log.info("Launched", simulation=record.id, launcher=record.launcher, experiment=record.experiment_id)
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
