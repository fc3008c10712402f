"""The spawner: a process that has imported all that a simulation server needs and forks one in milliseconds.

It is the parent of the servers, notes down how each ended, and adopts what they leave behind. A few idle servers are
ready at any time. It has no thread, because a fork takes only the thread that calls it along.

It is a session of its own and outlives its launcher: it waits on a named socket for the next one, and tells it of all
servers that there are. When none comes it ends its servers and itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import select
import selectors
import signal
import socket
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nrp_shims
from nrp_simserver import processes
from nrp_simserver.cores.embedded.imports import Imports
from nrp_simserver.placement.local import pooled_server
from nrp_simserver.placement.local.launcher_connection import LauncherConnection
from nrp_simserver.placement.local.server_pool import IdleServer, ServerPool
from nrp_simserver.placement.local.spawner_folder import SpawnerFolder
from nrp_simserver.placement.local.spawner_protocol import (
    AllTold,
    Dismiss,
    End,
    Ended,
    Hello,
    Idle,
    IdleGone,
    NotSpawned,
    Order,
    PoolFault,
    Prepare,
    Report,
    Retire,
    Signal,
    Spawn,
    Spawned,
)
from nrp_simserver.resources import cgroups
from nrp_simserver.server_end import ServerEnd, describe_exit, last_words
from nrp_simserver.simulation_folder import BusAccess, ServerSetup, SimulationFolder

log = logging.getLogger(__name__)

PRELOADED: Final = (
    "nrp_simserver.cores.embedded",
    "nrp_core.data.nrp_json",
    "nrp_core.engines.python_json",
    "numpy",
    "numpy.random",
    "asyncio",
    "concurrent.futures",
    "csv",
    "google.protobuf.internal.builder",
    "google.protobuf.message_factory",
    "inspect",
    "json",
    "logging.handlers",
    "multiprocessing",
    "sqlite3",
    "subprocess",
)
"""Modules of the servers, and those that experiments import most."""

END_TIMEOUT_S: Final = 3.0
"""How long the spawner waits at its end for what it has killed."""

GOODBYE_S: Final = 1.0
"""How long idle servers have to leave the bus, before they are killed, too."""

UNPREPARED_S: Final = 60.0
"""After how long without a launcher a spawner ends that no launcher prepared."""


@dataclass
class _Server:
    """A simulation server that runs.

    Attributes:
        incarnation: the server's.
        folder: the simulation's.
        log_size: of this process's log when the server was forked, in bytes.
        reason: why it was told to end, None when it was not by this process.
    """

    incarnation: str
    folder: SimulationFolder
    log_size: int
    reason: str | None = None


class Spawner:
    """Forks simulation servers on order and reports how they end.

    Args:
        listener: where launchers connect. One is served at a time; the one that came last.
        identity: said to each.
        log_file: what this process and idle servers write to.
    """

    def __init__(self, listener: socket.socket, identity: str, log_file: Path) -> None:
        self._listener = listener
        self._identity = identity
        self._log_file = log_file
        self._launcher: LauncherConnection | None = None
        self._events = selectors.DefaultSelector()
        self._signals, self._wake = socket.socketpair()
        for each in (self._signals, self._wake, listener):
            each.setblocking(False)
        self._servers: dict[int, _Server] = {}
        self._pool = ServerPool()
        self._cgroups: dict[int, Path] = {}  # of idle servers and of those that are leaving, by their process ids
        self._dismissed: set[int] = set()  # the process ids of idle servers that are leaving
        self._prepared: Prepare | None = None
        self._alone_since = time.monotonic()
        self._is_retired = False
        self._is_over = False
        self._kill_at: float | None = None

    def run(self) -> None:
        """Work until there is nothing to do any more; then end everything that is left."""
        # Whoever signals a service's whole process group leaves it to the launcher to end this process in order.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._events.register(self._listener, selectors.EVENT_READ, self._meet_launcher)
        self._events.register(self._signals, selectors.EVENT_READ, self._take_signals)  # to wake up
        while not self._is_over:
            ready = self._events.select(self._patience())
            self._take_signals()  # while it is still known who was there when they came
            for key, _ in ready:
                key.data()
            self._do_what_is_due()
        self._end_everything()

    # -- by the clock --------------------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        now = time.monotonic()
        until = [each - now for each in (self._deserted_at, self._kill_at) if each is not None]
        if (due_in := self._pool.due_in()) is not None:
            until.append(due_in)
        return max(0.0, min(until)) if until else None

    @property
    def _deserted_at(self) -> float | None:
        """When the servers are to be ended for want of a launcher, None when they are not."""
        if self._launcher is not None or self._kill_at is not None:
            return None
        return self._alone_since + self._orphaned_s

    @property
    def _orphaned_s(self) -> float:
        return UNPREPARED_S if self._prepared is None else self._prepared.orphaned_s

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._deserted_at is not None and now >= self._deserted_at:
            self._desert()
        if self._kill_at is not None and now >= self._kill_at:
            self._is_over = True
        if (self._is_retired or self._kill_at is not None) and not self._servers:
            self._is_over = True
        if not self._is_over and self._pool.due_in() == 0:
            self._start_idle_server()

    def _desert(self) -> None:
        """Have the servers stop: nobody would ever take care of them."""
        if self._orphaned_s:
            reason = f"No launcher came for {self._orphaned_s:g} s, and the simulation was ended"
        else:
            reason = "The launcher ended, and the simulation with it"
        log.error("No launcher came for %g s: ending %d servers", self._orphaned_s, len(self._servers))
        self._retire()
        self._kill_at = time.monotonic() + (0.0 if self._prepared is None else self._prepared.stop_grace_s)
        for pid, server in self._servers.items():
            server.reason = reason
            os.kill(pid, signal.SIGTERM)

    # -- the launcher --------------------------------------------------------------------------------------------------

    def _meet_launcher(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if self._launcher is not None:  # it has gone, and this one is not to miss what it ordered last
            self._launcher.take_orders()
        if self._launcher is not None:
            self._launcher.close()
        self._launcher = LauncherConnection(connection, self._events, self._obey, self._lose_launcher)
        self._report(Hello(pid=os.getpid(), identity=self._identity, is_retired=self._is_retired))
        for pid, server in self._servers.items():
            self._report(Spawned(incarnation=server.incarnation, pid=pid))
        for idle in self._pool.idle:
            self._report(Idle(incarnation=idle.incarnation, pid=idle.pid))
        self._report(AllTold())

    def _lose_launcher(self) -> None:
        self._launcher = None
        self._alone_since = time.monotonic()

    def _report(self, report: Report) -> None:
        if self._launcher is not None:
            self._launcher.report(report)

    def _obey(self, order: Order) -> None:
        match order:
            case Spawn(setup=setup):
                self._spawn(setup)
            case Signal(incarnation=incarnation, number=number):
                for pid, server in self._servers.items():
                    if server.incarnation == incarnation:
                        processes.send(pid, number)
            case Prepare():
                self._prepared = order
                size = 0 if self._is_retired else order.idle_servers
                for idle in self._pool.prepare(size, order.bus):
                    self._dismiss(idle)
            case Dismiss(incarnation=incarnation):
                if (unneeded := self._pool.take(incarnation)) is not None:
                    self._dismiss(unneeded)
            case Retire():
                self._retire()
            case End():
                self._is_over = True

    def _retire(self) -> None:
        self._is_retired = True
        for idle in self._pool.prepare(0, None):
            self._dismiss(idle)

    # -- the servers ---------------------------------------------------------------------------------------------------

    def _spawn(self, setup: ServerSetup) -> None:
        if any(server.incarnation == setup.incarnation for server in self._servers.values()):
            return
        idle = self._pool.take(setup.incarnation)
        if idle is not None and (idle.bus != setup.bus_access or not _hand_over(idle, setup)):
            self._dismiss(idle)
            idle = None
        if idle is None:
            try:
                idle = self._fork(setup.incarnation, setup.bus_access, credentials_follow=setup.credentials_in_folder)
            except OSError as error:
                reason = f"no process could be forked: {error}"
                self._report(NotSpawned(incarnation=setup.incarnation, reason=reason))
                return
            _hand_over(idle, setup)
        self._cgroups.pop(idle.pid, None)  # the simulation's from now on
        folder = SimulationFolder(setup.folder, setup.simulation_id)
        self._servers[idle.pid] = _Server(setup.incarnation, folder, idle.log_size)
        self._report(Spawned(incarnation=setup.incarnation, pid=idle.pid))

    def _start_idle_server(self) -> None:
        assert self._prepared is not None
        incarnation = uuid.uuid4().hex
        try:
            idle = self._fork(incarnation, self._prepared.bus, credentials_follow=self._prepared.credentials_follow)
        except OSError as error:
            log.error("No idle server could be forked: %s", error)
            self._pool.pause()
            return
        self._pool.add(idle)
        self._report(Idle(incarnation=incarnation, pid=idle.pid))

    def _fork(self, incarnation: str, access: BusAccess, *, credentials_follow: bool = False) -> IdleServer:
        spawner, log_size = os.getpid(), self._log_file.stat().st_size
        base = None if self._prepared is None else self._prepared.cgroups
        cgroup = None if base is None else cgroups.path_of(base, incarnation)
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            pooled_server.run(incarnation, access, spawner, theirs, cgroup, credentials_follow=credentials_follow)
        if cgroup is not None:
            self._cgroups[pid] = cgroup
        theirs.close()
        return IdleServer(incarnation, pid, ours, access, time.monotonic(), log_size)

    def _dismiss(self, idle: IdleServer) -> None:
        idle.handover.close()
        self._dismissed.add(idle.pid)
        self._report(IdleGone(incarnation=idle.incarnation))

    # -- their ends ----------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        try:
            numbers = self._signals.recv(1024)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers and self._launcher is None:  # else the launcher was told, too
            log.warning("Told to end while no launcher is there")
            self._is_over = True
        for pid, status in processes.ended_children():
            self._note_end(pid, os.waitstatus_to_exitcode(status))

    def _note_end(self, pid: int, exit_code: int) -> None:
        self._dismissed.discard(pid)
        if (cgroup := self._cgroups.pop(pid, None)) is not None:
            with suppress(OSError):  # it was never made
                cgroup.rmdir()
        if (server := self._servers.pop(pid, None)) is not None:
            end = ServerEnd(
                pid=pid,
                spawner=os.getpid(),
                exit_code=exit_code,
                ended_at=time.time(),
                reason=server.reason,
            )
            try:
                if not server.folder.log.exists():
                    self._hand_in_last_words(server)
                end.write(server.folder)
            except OSError as error:
                log.error("The end of simulation %d is not noted down: %s", server.folder.simulation_id, error)
            self._report(Ended(incarnation=server.incarnation, exit_code=exit_code, reason=server.reason))
        elif (idle := self._pool.bury(pid)) is not None:
            self._report(IdleGone(incarnation=idle.incarnation))
            idle.handover.close()
            if self._pool.is_failing:
                how = f"{describe_exit(exit_code)}{last_words(self._log_file, idle.log_size)}"
                retry_after_s = self._pool.due_in() or 0.0
                self._report(PoolFault(reason=f"An idle simulation server {how}", retry_after_s=retry_after_s))

    def _hand_in_last_words(self, server: _Server) -> None:
        """Have the simulation's log say what its server wrote here before it wrote there."""
        if words := last_words(self._log_file, server.log_size):
            with server.folder.append_to_log() as log_of_simulation:
                log_of_simulation.write(words.partition("\n")[2] + "\n")

    def _end_everything(self) -> None:
        for idle in self._pool.prepare(0, None):
            self._dismiss(idle)
        patience_ends = time.monotonic() + GOODBYE_S
        # What a killed process leaves behind becomes a child of this one, and is killed in the next round.
        while left := processes.children(os.getpid()):
            now = time.monotonic()
            if now > patience_ends + END_TIMEOUT_S:
                log.error("These processes do not end although they were killed: %s", left)
                return
            for pid in left:
                if pid not in self._dismissed or now > patience_ends:
                    os.kill(pid, signal.SIGKILL)
            select.select([self._signals], [], [], 0.1)
            self._take_signals()


def _hand_over(idle: IdleServer, setup: ServerSetup) -> bool:
    """Tell a server what to run. Returns whether it was there to hear it."""
    with suppress(OSError), idle.handover:
        idle.handover.sendall(setup.model_dump_json().encode() + b"\n")
        return True
    return False


def _preload() -> None:
    """Import what servers need, and have it stay shared with them."""
    sys.path.insert(0, str(nrp_shims.PATH))  # where experiments find `nrp_core`, too
    for module in PRELOADED:
        importlib.import_module(module)
    sys.path.remove(str(nrp_shims.PATH))
    Imports.share()
    gc.collect()
    gc.freeze()  # the collector would write to each object
    ctypes.CDLL(None).malloc_trim(0)


def main(folder: Path, identity: str, listener: socket.socket) -> None:
    """Run the spawner of a folder until it is told to end, or nobody needs it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the launcher has blocked those that it waits for
    listener.set_inheritable(False)
    processes.adopt_orphans()
    _preload()
    place = SpawnerFolder(folder)
    try:
        Spawner(listener, identity, place.log).run()
    finally:
        place.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], socket.socket(fileno=int(sys.argv[3])))
