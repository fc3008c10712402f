"""Streamed data on its way to the broker: as fast as the broker takes it, and never more than fits into memory.

A simulation makes data faster than any broker takes it. So whoever streams waits while `PACED_MESSAGES` or
`PACED_BYTES` are under way: the broker sets the pace and nothing is lost. A broker that takes nothing for `PATIENCE_S`
(it is away, or hangs) is waited for no longer, until it takes something again. Meanwhile what is streamed waits, up to
`MOST_MESSAGES` and `MOST_BYTES`; what comes on top of that is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

PACED_MESSAGES = 64
"""Few, as a simulation's states wait behind them; more than are unacknowledged at once (20), for an even flow."""

PACED_BYTES = 4 * 1024 * 1024

PATIENCE_S = 5.0
"""Longer than a broker takes to be restarted."""

MOST_MESSAGES = 5_000
"""Half of what the connection holds for a broker that is away: the rest is for states."""

MOST_BYTES = 64 * 1024 * 1024


class Outgoing:
    """What is under way of streamed data.

    Args:
        broker: what it is called in the log.
    """

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Condition()  # guards all below
        self._sizes: dict[int, int] = {}  # by packet
        self._bytes = 0
        self._taken = 0
        self._dropped = 0
        self._is_waited_for = True
        self._taken_while_publishing: set[int] | None = None

    def send(self, publish: Callable[[], int | None], size: int, *, patient: bool) -> bool:
        """Publish a message once there is room for it.

        Args:
            publish: does it, and returns the number of the packet; None when it was refused.
            size: of the payload, in bytes.
            patient: whether to wait for the broker.

        Returns:
            Whether it was published; else it was dropped.
        """
        if patient:
            self._wait_for_room()
        with self._one_at_a_time:
            with self._changed:
                is_room = not self._sizes or (len(self._sizes) < MOST_MESSAGES and self._bytes + size <= MOST_BYTES)
                self._taken_while_publishing = set()
            packet = publish() if is_room else None
            with self._changed:
                taken, self._taken_while_publishing = self._taken_while_publishing, None
                if packet is None:
                    self._dropped += 1
                    if self._dropped == 1:
                        log.warning("The MQTT broker at %s takes no data: what is streamed is dropped", self._broker)
                elif packet not in (taken or ()):
                    self._sizes[packet] = size
                    self._bytes += size
                return packet is not None

    def acknowledge(self, packet: int) -> None:
        """The broker has taken a packet, of streamed data or another one."""
        with self._changed:
            size = self._sizes.pop(packet, None)
            if size is None:
                if self._taken_while_publishing is not None:  # it may be the one
                    self._taken_while_publishing.add(packet)
                return
            self._bytes -= size
            self._taken += 1
            self._is_waited_for = True
            if self._dropped:
                log.warning(
                    "The MQTT broker at %s takes data again: %d messages were dropped", self._broker, self._dropped
                )
                self._dropped = 0
            if self._is_little():
                self._changed.notify_all()

    def _wait_for_room(self) -> None:
        with self._changed:
            if len(self._sizes) < PACED_MESSAGES and self._bytes < PACED_BYTES:
                return
            while self._is_waited_for:
                taken = self._taken
                # Not for room for one only: threads would take turns at each message.
                if self._changed.wait_for(self._is_little, PATIENCE_S):
                    return
                if self._taken == taken:
                    self._is_waited_for = False
                    log.warning(
                        "The MQTT broker at %s has taken nothing for %g s: the simulation goes on",
                        self._broker,
                        PATIENCE_S,
                    )

    def _is_little(self) -> bool:
        return len(self._sizes) <= PACED_MESSAGES // 2 and self._bytes <= PACED_BYTES // 2
