"""The queue: launches that wait until a launcher has room for them.

They are rows of the catalogue without a launcher, so that they outlive a gateway, and gateways share them: who gives
one to a launcher notes that first, under the condition that nobody else did. The order is fair: an owner's own launches
stay in order, and whoever has had fewest simulations lately, or has fewest ahead in the queue, comes first. Owners who
have as many simulations as may be are passed over.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from nrp_common.bus import Bus
from nrp_common.errors import NRPError
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Progress, Refusal, Reply, Task, TaskDone
from nrp_common.topics import Topics
from nrp_gateway.catalogue import SimulationRecord
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences

LOOK_S: Final = 1.0
"""How often the queue is looked at without news of a launcher: other gateways put launches into it, too."""

LATELY_S: Final = 3600.0
"""How long a simulation that has ended counts as one that its owner has had."""

WAITING: Final = "Waiting for a launcher"

log = structlog.get_logger(__name__)


class LaunchQueue:
    """Gives queued launches to launchers that have room. Usable from several threads.

    Args:
        mirror: knows the simulations.
        presences: knows the launchers.
        bus: carries the positions.
        topics: of this installation.
        hand_over: asks the launcher of a simulation, which it is noted to be given to, to take it.
    """

    def __init__(
        self,
        mirror: Mirror,
        presences: Presences,
        bus: Bus,
        topics: Topics,
        hand_over: Callable[[SimulationRecord, str], Reply],
    ) -> None:
        self._mirror = mirror
        self._presences = presences
        self._bus = bus
        self._topics = topics
        self._hand_over = hand_over
        self._told: dict[int, tuple[int, int]] = {}
        self._serving = threading.Lock()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="launch queue", daemon=True)
        presences.room_changed = self._news.set

    def start(self) -> None:
        """Serve the queue from now on."""
        self._thread.start()

    def close(self) -> None:
        """Leave the queue to other gateways, or to the next start of this one."""
        self._closing.set()
        self._news.set()
        self._thread.join()

    @property
    def length(self) -> int:
        """How many launches wait."""
        return len(self._order())

    def position(self, simulation_id: int) -> int | None:
        """How many launches a simulation waits for, itself included; None when it does not wait."""
        order = [record.id for record in self._order()]
        return order.index(simulation_id) + 1 if simulation_id in order else None

    def serve(self) -> None:
        """Give away what somebody has room for, and tell the others their positions.

        Raises:
            Unreachable: the catalogue cannot be reached.
            BusUnavailable: the broker cannot be reached.
        """
        with self._serving:
            under_way = Counter(each.launcher for each in self._handed_over_by_others())
            spoken_for = {each for each, number in under_way.items() if self._presences.room_of(each) <= number}
            for record in self._order():
                self._give_away(record, spoken_for)
            self._tell_positions()

    def _handed_over_by_others(self) -> list[SimulationRecord]:
        """The launches that other gateways gave to a launcher which has not answered yet: it takes these first."""
        seem_to_be = [each for each in self._mirror.live_and_recent() if _is_being_handed_over(each)]
        read = (self._mirror.read_again(each.id) for each in seem_to_be)
        return [each for each in read if each is not None and _is_being_handed_over(each)]

    def _order(self) -> list[SimulationRecord]:
        return fair_order(self._mirror.live_and_recent(), time.time() - LATELY_S)

    def _give_away(self, record: SimulationRecord, spoken_for: set[str]) -> None:
        """Give a launch to a launcher, unless one that is ahead of it may need the room there.

        Args:
            record: of the launch.
            spoken_for: the launchers whose room is taken whatever they said last, by launches that other gateways just
                gave them or that they had no room for after all; added to.
        """
        if not self._mirror.has_place_for(record.owner):
            return
        for launcher in self._presences.with_room(record.wishes):
            if launcher in spoken_for:
                continue
            given = self._mirror.give_to(record, launcher)
            if given is None:
                known = self._mirror.get(record.id)
                spoken_for.update([known.launcher] if known is not None else [])
                return
            taken = False
            try:
                reply = self._hand_over(given, record.sealed_token)
                taken = reply.error is None
            finally:
                if not taken:
                    self._mirror.take_back(record.id)
            if taken:
                return
            if reply.refusal is Refusal.FULL:
                spoken_for.add(launcher)
            else:
                log.warning("A launcher did not take a queued simulation", simulation=record.id, error=reply.error)

    def _tell_positions(self) -> None:
        order = self._order()
        places = {record.id: (place, len(order)) for place, record in enumerate(order, 1)}
        for simulation_id in self._told.keys() - places.keys():
            self._bus.publish(self._topics.status(simulation_id), Progress(progress=TaskDone(task=WAITING)))
        for simulation_id, place in places.items():
            if self._told.get(simulation_id) != place:
                self._bus.publish(self._topics.status(simulation_id), _progress(*place))
        self._told = places

    def _work(self) -> None:
        while not self._closing.is_set():
            self._news.wait(LOOK_S)
            self._news.clear()
            try:
                if self._bus.is_connected and (self._told or self._order()):
                    self.serve()
            except NRPError as error:
                log.error("The queue cannot be served now", error=str(error))
            except Exception:
                log.exception("Serving the queue failed")


def _is_being_handed_over(record: SimulationRecord) -> bool:
    given = record.queued_at is not None and bool(record.launcher)
    return given and record.state is SimulationState.CREATED and not record.incarnation


def fair_order(records: Sequence[SimulationRecord], lately: float) -> list[SimulationRecord]:
    """The queued simulations in the order in which they get their turn.

    Args:
        records: all simulations that run, wait, or have ended not long ago.
        lately: since when one that has ended counts for its owner, in seconds since 1970.
    """
    had = Counter(each.owner for each in records if not each.is_queued and (each.ended_at or lately) >= lately)
    turns: list[tuple[int, float, int, SimulationRecord]] = []
    for record in sorted((each for each in records if each.is_queued), key=lambda each: (each.queued_at, each.id)):
        turns.append((had[record.owner], record.queued_at or 0.0, record.id, record))
        had[record.owner] += 1
    return [record for *_, record in sorted(turns, key=lambda turn: turn[:3])]


def _progress(place: int, of: int) -> Progress:
    subtask = f"Position {place} of {of} in the queue"
    return Progress(
        progress=Task(task=WAITING, subtask=subtask, number_of_subtasks=of, subtask_index=place - 1, block_ui=False)
    )
