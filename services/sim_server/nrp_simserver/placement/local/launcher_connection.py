"""A spawner's end of the connection to its launcher. Nothing here ever waits: a spawner has no thread to spare."""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from nrp_simserver.placement.local.spawner_protocol import Lines, Order, Report, order_in, to_line

log = logging.getLogger(__name__)

CHUNK: Final = 65536
"""Bytes read at once."""


class LauncherConnection:
    """A launcher, for as long as it is there.

    Args:
        connection: to its socket.
        events: of the spawner; called back from there.
        obey: carries out an order.
        lost: called once the launcher is gone.
    """

    def __init__(
        self,
        connection: socket.socket,
        events: selectors.BaseSelector,
        obey: Callable[[Order], None],
        lost: Callable[[], None],
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._events = events
        self._obey = obey
        self._lost = lost
        self._lines = Lines()
        self._unsent = bytearray()
        self._is_open = True
        events.register(connection, selectors.EVENT_READ, self._talk)

    def report(self, report: Report) -> None:
        """Tell the launcher something; as soon as it listens."""
        self._unsent += to_line(report)
        self._send()

    def take_orders(self) -> None:
        """Carry out what has arrived by now."""
        try:
            received = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        for line in self._lines.add(received):
            order = order_in(line)
            if order is None:
                log.warning("Passed over an order of another version: %.200r", line)
            else:
                self._obey(order)
        if not received:
            self.close()

    def close(self) -> None:
        """Hang up."""
        if self._is_open:
            self._is_open = False
            self._events.unregister(self._socket)
            self._socket.close()
            self._lost()

    def _talk(self) -> None:
        if self._unsent:
            self._send()
        self.take_orders()

    def _send(self) -> None:
        if not self._is_open:
            return
        try:
            with suppress(BlockingIOError):
                del self._unsent[: self._socket.send(self._unsent)]
        except OSError:
            self.close()
            return
        waiting_for = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._events.get_key(self._socket).events != waiting_for:
            self._events.modify(self._socket, waiting_for, self._talk)
