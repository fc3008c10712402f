"""What is said of a simulation that waits until the cluster has a place for it."""

from __future__ import annotations

import math
import threading
import time
from typing import Final

from nrp_common.bus import Bus
from nrp_common.messages import WAITING_FOR_A_NODE, NodeQueue, Progress, TaskDone
from nrp_simserver.placement.placement import QueuePlace

TOLD_AGAIN_S: Final = 5.0
"""Between two messages that say the same, for who comes to the bus meanwhile."""


class QueueNotice:
    """Tells the bus where one simulation is in a cluster's queue. Usable from several threads.

    Args:
        bus: carries it.
        status_topic: the simulation's.
    """

    def __init__(self, bus: Bus, status_topic: str) -> None:
        self._bus = bus
        self._status_topic = status_topic
        self._lock = threading.Lock()  # guards the two below, and the order of what is said
        self._told: QueuePlace | None = None
        self._told_at = -math.inf

    def tell(self, place: QueuePlace) -> None:
        """The simulation waits: say so when it is new, or was not said for a while."""
        with self._lock:
            now = time.monotonic()
            if place == self._told and now - self._told_at < TOLD_AGAIN_S:
                return
            self._told, self._told_at = place, now
            self._bus.publish(self._status_topic, Progress(progress=_message(place)))

    def take_back(self) -> None:
        """The simulation waits no more."""
        with self._lock:
            if self._told is not None:
                self._told = None
                self._bus.publish(self._status_topic, Progress(progress=TaskDone(task=WAITING_FOR_A_NODE)))


def _message(place: QueuePlace) -> NodeQueue:
    if place.position is None or place.length is None:
        return NodeQueue(subtask=place.reason, queue_reason=place.reason)
    return NodeQueue(
        subtask=f"Position {place.position} of {place.length} in the queue: {place.reason}",
        number_of_subtasks=place.length,
        subtask_index=place.position - 1,
        queue_position=place.position,
        queue_reason=place.reason,
    )
