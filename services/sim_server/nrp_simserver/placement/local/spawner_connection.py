"""The launcher's end of one spawner: gives it orders, hands on its reports, and notices its end."""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import Final, Protocol

from nrp_common.errors import NRPError
from nrp_simserver import processes
from nrp_simserver.placement.local.spawner_folder import SpawnerFolder
from nrp_simserver.placement.local.spawner_protocol import (
    AllTold,
    Dismiss,
    End,
    Ended,
    Hello,
    Idle,
    IdleGone,
    Lines,
    NotSpawned,
    Order,
    PoolFault,
    Report,
    Spawn,
    Spawned,
    report_in,
    to_line,
)
from nrp_simserver.placement.placement import Listener
from nrp_simserver.server_end import describe_exit, describe_server_end, last_words

log = logging.getLogger(__name__)

END_TIMEOUT_S: Final = 5.0
"""How long a spawner may take to end, before it is killed."""

THE_SPAWNER: Final = "The process that forks simulation servers"
"""What it is called where people read it."""


class SpawnerUnavailable(NRPError):
    """The process that forks simulation servers is not there."""


class Owner(Protocol):
    """Who is told about the spawner itself, in its connection's thread: must not take long."""

    def spawner_said_hello(self, connection: SpawnerConnection) -> None:
        """It is ready, and `connection.hello` says what it is."""

    def spawner_told_all(self, connection: SpawnerConnection) -> None:
        """The listener knows of all its servers: also when it has ended, just before `spawner_is_gone`."""

    def spawner_is_gone(self, connection: SpawnerConnection) -> None:
        """It has ended."""


class SpawnerConnection:
    """One spawner, for as long as it lives.

    Args:
        folder: the spawner's.
        connection: to its socket.
        process: the spawner when this process started it, None when an earlier launcher did.
        listener: is told what it reports.
        owner: is told about the spawner itself.

    Attributes:
        hello: what it said first, None as long as it said nothing.
    """

    def __init__(
        self,
        folder: SpawnerFolder,
        connection: socket.socket,
        process: subprocess.Popen[bytes] | None,
        listener: Listener,
        owner: Owner,
    ) -> None:
        self.hello: Hello | None = None
        self._folder = folder
        self._socket = connection
        self._process = process
        self._listener = listener
        self._owner = owner
        self._lock = threading.Lock()  # guards what is sent, and the four below
        self._is_gone = False
        self._running: set[str] = set()  # the servers that end with this spawner at the latest
        self._idle: deque[str] = deque()
        self._idle_pids: dict[str, int] = {}  # also of those that are reserved and do not run yet
        self._is_left = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._listen, name="spawner", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def send(self, order: Order) -> None:
        """Give an order. After a `Spawn` the listener hears of the server's end, whatever ends it.

        Raises:
            SpawnerUnavailable: the spawner is gone.
        """
        with self._lock:
            if self._is_gone:
                raise SpawnerUnavailable
            try:
                self._socket.sendall(to_line(order))
            except OSError as error:
                raise SpawnerUnavailable from error
            if isinstance(order, Spawn):
                self._running.add(order.setup.incarnation)

    def reserve(self) -> str | None:
        """The incarnation of an idle server, which nobody else gets; None when there is none."""
        with self._lock:
            return self._idle.popleft() if self._idle else None

    @property
    def idle_pids(self) -> set[int]:
        """The process ids of the idle servers."""
        with self._lock:
            return set(self._idle_pids.values())

    def wait_until_gone(self) -> None:
        """Wait for the end of the spawner."""
        self._thread.join()

    def close(self) -> None:
        """End the spawner, and with it all its servers."""
        self._is_closed = True
        with suppress(SpawnerUnavailable):
            self.send(End())
        self._thread.join(END_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("%s does not end, it is killed", THE_SPAWNER)
            if (pid := self._pid) is not None:
                processes.end_all(lambda: [] if processes.has_ended(pid) else [pid])
            self._thread.join(END_TIMEOUT_S)

    def leave(self) -> None:
        """Leave the spawner and its servers to the next launcher; end it when it has none."""
        with self._lock:
            self._is_left = bool(self._running)
        if not self._is_left:
            self.close()
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(END_TIMEOUT_S)

    @property
    def _pid(self) -> int | None:
        if self._process is not None:
            return self._process.pid
        return None if self.hello is None else self.hello.pid

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        lines = Lines()
        with suppress(OSError), self._socket:
            while received := self._socket.recv(65536):
                for line in lines.add(received):
                    self._take(line)
        if not self._is_left:
            self._bury()

    def _take(self, line: bytes) -> None:
        report = report_in(line)
        if report is None:
            log.warning("Passed over a report of another version: %.200r", line)
        elif isinstance(report, Hello):
            self.hello = report
            self._owner.spawner_said_hello(self)
        else:
            self._hand_on(report)

    def _hand_on(self, report: Report) -> None:
        match report:
            case Idle(incarnation=incarnation) if self._listener.is_taken(incarnation):
                # An earlier launcher reserved it, and had no time to use it.
                with suppress(SpawnerUnavailable):
                    self.send(Dismiss(incarnation=incarnation))
            case Idle(incarnation=incarnation, pid=pid):
                with self._lock:
                    self._idle.append(incarnation)
                    self._idle_pids[incarnation] = pid
            case IdleGone(incarnation=incarnation):
                with self._lock, suppress(ValueError):
                    self._idle_pids.pop(incarnation, None)
                    self._idle.remove(incarnation)
            case Spawned(incarnation=incarnation, pid=pid):
                assert self.hello is not None, "said first"
                with self._lock:
                    self._running.add(incarnation)
                self._listener.server_spawned(incarnation, pid, self.hello.pid)
                with self._lock:
                    self._idle_pids.pop(incarnation, None)
            case NotSpawned(incarnation=incarnation, reason=reason):
                self._note_end(incarnation, f"The simulation server could not be started: {reason}")
            case Ended(incarnation=incarnation, exit_code=exit_code, reason=reason):
                how = describe_server_end(exit_code, reason)
                self._note_end(incarnation, how, by_placement=reason is not None)
            case PoolFault(reason=reason, retry_after_s=retry_after_s):
                log.error("No server can be kept ready for launches; next try in %.0f s: %s", retry_after_s, reason)
            case AllTold():
                self._owner.spawner_told_all(self)

    def _note_end(self, incarnation: str, how: str, *, by_placement: bool = False) -> None:
        with self._lock:
            self._running.discard(incarnation)
        self._listener.server_ended(incarnation, how, by_placement=by_placement)

    def _bury(self) -> None:
        with self._lock:
            self._is_gone = True
            self._idle.clear()
            self._idle_pids.clear()
            lost, self._running = self._running, set()
        reason = f"{THE_SPAWNER} {self._ending()}"
        if not self._is_closed and (lost or self.hello is None):
            log.error("%s%s", reason, last_words(self._folder.log))
        for incarnation in lost:
            self._listener.spawner_ended(incarnation, reason)
        self._folder.remove()
        self._owner.spawner_told_all(self)
        self._owner.spawner_is_gone(self)

    def _ending(self) -> str:
        if self._process is None:
            if self.hello is not None:
                processes.await_end(self.hello.pid, END_TIMEOUT_S)
            return "has ended"
        try:
            return describe_exit(self._process.wait(END_TIMEOUT_S))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return describe_exit(self._process.wait())
