"""Commands: what the owner of a simulation asks of it, sent to its server and answered with the state it reached."""

from __future__ import annotations

import time
from typing import Final

import structlog

from nrp_common.bus import Bus
from nrp_common.errors import BusUnavailable, CommandRefused, CommandTimeout, InvalidTransition
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Command, CommandEvent, Refusal, Reply
from nrp_common.topics import Topics
from nrp_gateway.backend_lifecycle import BackendSimulationLifecycle
from nrp_gateway.caretaker import Caretaker
from nrp_gateway.catalogue import SimulationRecord
from nrp_gateway.errors import SimulationNotFound, Unreachable
from nrp_gateway.metrics import GatewayMetrics
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences

ANSWERED_WITHIN_S: Final = 5.0
"""A server answers `started` and `paused` at once; the step in flight is not waited for."""

CARRIED_OUT_WITHIN_S: Final = 25.0
"""A reset waits for the engines, a step for the steps."""

STOPPED_WITHIN_S: Final = 15.0
"""The launcher kills what does not stop after a grace time, then stores the logs."""

_TIMEOUTS: Final = {
    CommandEvent.STARTED: ANSWERED_WITHIN_S,
    CommandEvent.PAUSED: ANSWERED_WITHIN_S,
    CommandEvent.RESET: CARRIED_OUT_WITHIN_S,
    CommandEvent.STEP: CARRIED_OUT_WITHIN_S,
}

log = structlog.get_logger(__name__)


class Commands:
    """Carries out commands. Usable from several threads."""

    def __init__(
        self,
        mirror: Mirror,
        presences: Presences,
        caretaker: Caretaker,
        bus: Bus,
        topics: Topics,
        metrics: GatewayMetrics,
    ) -> None:
        self._mirror = mirror
        self._presences = presences
        self._caretaker = caretaker
        self._bus = bus
        self._topics = topics
        self._metrics = metrics

    def carry_out(self, record: SimulationRecord, event: CommandEvent, iterations: int = 1) -> SimulationState:
        """Send a command.

        Returns:
            The state that was really reached; at once when it is there already.

        Raises:
            SimulationFinal: the simulation has ended.
            InvalidTransition: its state does not allow the command.
            CommandRefused: the same, as its server sees it.
            CommandTimeout: nobody answered in time.
            SimulationNotFound: somebody removed it meanwhile.
            Unreachable: there is nobody left to answer.
            BusUnavailable: the broker cannot be reached, or was lost before the answer came.
        """
        with self._metrics.command(event):
            reached = self._carry_out(record, event, iterations)
        log.info("Commanded", simulation=record.id, owner=record.owner, command=event.value, state=reached.value)
        return reached

    def _carry_out(self, record: SimulationRecord, event: CommandEvent, iterations: int) -> SimulationState:
        if not self._seems_needed(event, record):  # perhaps another gateway has heard more
            record = self._mirror.read_again(record.id) or record
            if not _is_needed(event, record):
                # The simulation is where it is asked to be. Its launcher hears that somebody still wants it.
                now = time.time()
                command = Command(event=event, deadline=now + ANSWERED_WITHIN_S, unless_changed_since=now)
                self._bus.tell(self._topics.command(record.id), command)
                return record.state
        if event is CommandEvent.STOPPED:
            return self._stop(record)
        reply = self._ask(record, event, iterations, _TIMEOUTS[event])
        if reply.error is not None:
            return self._state_after_refusal(record, reply)
        self._mirror.note_reply(record, reply)
        return reply.state or record.state

    def _seems_needed(self, event: CommandEvent, record: SimulationRecord) -> bool:
        try:
            return _is_needed(event, record)
        except InvalidTransition:
            return False

    def remove(self, record: SimulationRecord) -> None:
        """Stop a simulation where it runs, and forget it. One that cannot be stopped is given up.

        Raises:
            SimulationNotFound: somebody else removed it meanwhile.
            BusUnavailable: the broker cannot be reached.
        """
        was_given_up = False
        if not record.state.is_final:
            try:
                self._stop(record)
            except (CommandTimeout, CommandRefused, Unreachable) as error:
                log.warning("Removing a simulation that does not stop", simulation=record.id, reason=str(error))
                current = self._mirror.read_again(record.id) or record
                was_given_up = self._mirror.give_up(current, "It was deleted, and did not stop")
        last = self._mirror.get(record.id) or record
        self._mirror.remove(record.id)
        if not was_given_up:  # who is away now reads the verdict when coming back within the minute
            self._caretaker.clean_up(last)
        self._caretaker.clean_up_later(last)

    def _ask(self, record: SimulationRecord, event: CommandEvent, iterations: int, timeout: float) -> Reply:
        is_there = self._presences.has_server(record.incarnation) or self._presences.has_launcher(record.launcher)
        if self._bus.is_connected and not is_there:
            raise Unreachable(
                f"Neither the server of simulation {record.id} nor its launcher '{record.launcher}' is connected"
            )
        command = Command(event=event, iterations=iterations, deadline=time.time() + timeout)
        try:
            return self._bus.request(self._topics.command(record.id), command, timeout=timeout)
        except CommandTimeout as error:
            raise self._unanswered(record, event, timeout) from error

    def _stop(self, record: SimulationRecord) -> SimulationState:
        if record.is_queued and self._mirror.stop_waiting(record):
            return SimulationState.STOPPED
        deadline = time.monotonic() + STOPPED_WITHIN_S
        record = self._mirror.get(record.id) or record  # perhaps it was given to a launcher just now
        try:
            reply = self._ask(record, CommandEvent.STOPPED, 1, ANSWERED_WITHIN_S)
        except CommandTimeout:
            pass  # a server that is stuck: the launcher heard the command too, and ends it
        else:
            if reply.refusal is Refusal.UNKNOWN:
                raise Unreachable(f"The launcher '{record.launcher}' does not know the simulation: {reply.error}")
        ended = self._mirror.wait_for(record.id, _is_final, max(0.0, deadline - time.monotonic()))
        if ended is None:
            raise SimulationNotFound
        if not ended.state.is_final:
            raise self._unanswered(record, CommandEvent.STOPPED, STOPPED_WITHIN_S)
        return ended.state

    def _unanswered(
        self, record: SimulationRecord, event: CommandEvent, timeout: float
    ) -> CommandTimeout | BusUnavailable:
        command = f"The command '{event}' to simulation {record.id}"
        if not self._bus.is_connected:
            return BusUnavailable(
                f"{command} was not answered, as the connection to the MQTT broker at {self._bus.broker} was lost "
                "meanwhile. Whether it was carried out shows once that is back"
            )
        return CommandTimeout(
            f"{command} was not carried out within {timeout:g} s (its launcher is '{record.launcher}')"
        )

    def _state_after_refusal(self, record: SimulationRecord, reply: Reply) -> SimulationState:
        if reply.refusal is Refusal.INVALID:
            raise CommandRefused(reply.error)
        if reply.refusal is Refusal.FAILED:  # the simulation does not survive that
            ended = self._mirror.wait_for(record.id, _is_final, ANSWERED_WITHIN_S)
            if ended is not None and ended.state.is_final:
                return ended.state
        raise Unreachable(f"The simulation server did not carry out the command: {reply.error}")


def _is_needed(event: CommandEvent, record: SimulationRecord) -> bool:
    return BackendSimulationLifecycle(record.state, record.incarnation, record.seq).validate(event)


def _is_final(record: SimulationRecord) -> bool:
    return record.state.is_final
