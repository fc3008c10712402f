"""Simulation servers as jobs of a cluster that exists already: what is the same whichever cluster it is.

A job runs `nrp_simserver.placement.job` on a node. It is followed from the order of its server until nothing of it is
left, in three ways: by what its server says of itself on the bus, by what the job notes down in the simulation's folder
when its server has ended, and by what the cluster tells. What is found decides what is to be done, so that whatever was
missed while the cluster, the broker or this launcher was away is made up for.

One thread looks into the folders. Another one, which nothing of the cluster can hold up the first by, looks at the
cluster. What may take long is asked of the cluster from further ones, and again until it is done.

A cluster of another kind is a `BatchPlacement` that says what is particular to it: what a job is, how one is submitted
and ended, and what is to be seen of all.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from nrp_common import tracing
from nrp_common.bus import Bus
from nrp_common.errors import NRPError
from nrp_common.messages import ServerPresence
from nrp_simserver.placement.heartbeat import Heartbeat
from nrp_simserver.placement.job import JobOrder
from nrp_simserver.placement.placement import Listener, QueuePlace, ServerOrder
from nrp_simserver.resources.capacity import Room
from nrp_simserver.server_end import ServerEnd, describe_server_end, last_words
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder, read_note

log = logging.getLogger(__name__)

CAPACITY: Final = 100
"""How many simulations are with a cluster at once, waiting ones included, when nothing else is set."""

LOOK_S: Final = 1.0
"""Between two looks when nothing is told: at the cluster, and into each folder."""

ENDING_LOOK_S: Final = 0.05
"""Between two looks into the folder of a simulation whose server has left the bus, or was told to end."""

ENDING_S: Final = 5.0
"""For how long it is looked at so often."""

CALLS_AT_ONCE: Final = 4
"""How much is asked of a cluster at the same time, beside the looks."""

FREED_WITHIN_S: Final = 15.0
"""How long the folder of a simulation that is over is left to its job, which may still be closing its files."""

NOBODY: Final = tracing.Context()
"""On whose behalf a server of an earlier launcher runs, as far as is known."""


class NotNow(NRPError):
    """A cluster does not do now what it is asked to: it is asked again.

    Attributes:
        retry_after_s: how long it wants to be left alone.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class JobNote(BaseModel):
    """What a launcher notes down of a job in the simulation's folder, for the launcher that comes after it."""

    FILE: ClassVar[str]
    """Its name in the folder."""

    def write(self, folder: SimulationFolder) -> None:
        """Put this into the simulation's folder, in place of what is there."""
        new = folder.path / f"{self.FILE}.new"
        new.write_text(self.model_dump_json())
        new.replace(folder.path / self.FILE)

    @classmethod
    def read(cls, folder: SimulationFolder) -> Self | None:
        """What is in a simulation's folder, None when no job was to be submitted for it."""
        try:
            return cls.model_validate_json(read_note(folder.path / cls.FILE))
        except (OSError, ValidationError):
            return None


class Ending(IntEnum):
    """How urgently a server is to end."""

    NO = 0
    STOP = 1
    CANCEL = 2
    KILL = 3
    """As it should have ended when it was cancelled, and did not."""


N = TypeVar("N", bound=JobNote)


@dataclass
class BatchServer(Generic[N]):
    """A simulation server, from its order until nothing of it is left.

    Times are in `time.monotonic()` seconds.

    Attributes:
        incarnation: the server's.
        folder: the simulation's.
        note: of its job.
        context: on whose behalf it runs.
        may_have_job: whether the cluster may have its job although it did not say so.
        obstacle: why the cluster did not do what it was asked the last time.
        failures: how often in a row it did not.
        retry_at: when it is asked again.
        is_busy: whether it is being asked.
        is_online: whether the server is on the bus.
        running_at: when the listener was told that it runs.
        over_at: when the listener was told how it ended.
        ending: how urgently it is to end.
        ending_since: since when.
        told: up to which urgency the cluster was told.
        hurry_until: for how long its folder is looked into often.
        read_at: when that was done last.
    """

    incarnation: str
    folder: SimulationFolder
    note: N
    context: tracing.Context = NOBODY
    may_have_job: bool = False
    obstacle: str = ""
    failures: int = 0
    retry_at: float = -math.inf
    is_busy: bool = False
    is_online: bool = False
    running_at: float = math.inf
    over_at: float = math.inf
    ending: Ending = Ending.NO
    ending_since: float = math.inf
    told: Ending = Ending.NO
    hurry_until: float = -math.inf
    read_at: float = -math.inf

    @property
    def is_running(self) -> bool:
        """Whether the listener was told that it runs, whatever became of it since."""
        return self.running_at < math.inf

    @property
    def is_over(self) -> bool:
        """Whether the listener was told how it ended."""
        return self.over_at < math.inf

    def urge(self, ending: Ending) -> None:
        """It is to end as urgently as that from now on."""
        self.ending, self.ending_since = ending, time.monotonic()


S = TypeVar("S", bound=BatchServer[Any])


class BatchPlacement(ABC, Generic[S]):
    """A `Placement` in a cluster.

    `_changed` guards all of each server; methods that have one as argument are called with it held, but for those that
    are asked of the cluster in other threads.

    Args:
        settings: the launcher's.
        bus: the launcher's.
        listener: is told what becomes of servers.
        all_told: called once it is known of all servers of earlier launchers what they are.
    """

    CLUSTER: ClassVar[str]
    """What it is called."""

    ORPHANED_S: ClassVar[float]
    """The least time that jobs run on without a launcher, whose sign of life crosses a file system."""

    BEING_SUBMITTED: ClassVar[str]
    """Why a server waits at first."""

    def __init__(self, settings: LauncherSettings, bus: Bus, listener: Listener, all_told: Callable[[], None]) -> None:
        self.room = Room(places=settings.capacity or CAPACITY, cores=None, memory_mb=None, gpus=None)
        self._settings = settings
        self._bus = bus
        self._listener = listener
        self._all_told: Callable[[], None] | None = all_told
        self._heartbeat = Heartbeat(settings.heartbeat_file)
        self._changed = threading.Condition(threading.RLock())  # guards all below but for the pool and the threads
        self._servers: dict[str, S] = {}
        self._is_closing = False
        self._looked_at = -math.inf
        self._folders_looked_at = -math.inf
        name = self.CLUSTER.lower()
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, name)
        looks = {
            name: (self._until_next_look, self._look),
            f"{name} folders": (self._until_next_look_into_folders, self._read_ends),
        }
        self._threads = [
            threading.Thread(target=self._watch, args=look, name=each, daemon=True) for each, look in looks.items()
        ]

    # -- what is particular to a cluster -------------------------------------------------------------------------------

    @abstractmethod
    def _ordered(self, order: ServerOrder, folder: SimulationFolder, order_file: Path) -> S:
        """The server of an order, with the note of its job.

        Args:
            order: the server.
            folder: the simulation's.
            order_file: what `nrp_simserver.placement.job` is to be called with.
        """

    @abstractmethod
    def _found(self, incarnation: str, folder: SimulationFolder) -> S | None:
        """The server of an earlier launcher, None when no job was to be submitted for it."""

    @abstractmethod
    def _submit(self, server: S) -> None:
        """Submit the job of a server; in another thread.

        Raises:
            NotNow: it is to be tried again.
        """

    @abstractmethod
    def _look(self) -> None:
        """Look at the cluster: do what follows for each server, then say `_tell_all_told`. In a thread of its own."""

    @abstractmethod
    def _is_free(self, server: S) -> bool:
        """Whether nobody uses the folder of a server that is over any more, as far as is known."""

    @abstractmethod
    def _delay_after(self, failures: int) -> float:
        """How many seconds to wait after so many failures in a row, from 0, before the cluster is asked again."""

    @abstractmethod
    def close(self) -> None:
        """End all servers."""

    def _prepare(self) -> None:
        """Whatever has to be before servers are looked for."""

    def _urged(self, server: S) -> None:
        """It was just said that a server is to end, or more urgently than before."""

    def _release(self, server: S) -> None:
        """Nothing more is expected of a server: leave nothing of it in the cluster."""

    # -- what the launcher asks ----------------------------------------------------------------------------------------

    def start(self, leftovers: Mapping[str, SimulationFolder]) -> None:
        """Find the jobs of earlier launchers, and look at the cluster from now on.

        Raises:
            SettingsError: nodes could not work with these settings.
        """
        self._prepare()
        self._heartbeat.beat()  # jobs may need the file to be there
        for incarnation, folder in leftovers.items():
            if (server := self._found(incarnation, folder)) is not None:
                server.may_have_job = True
                self._follow(server)
                self._listener.server_found(incarnation)
        for thread in self._threads:
            thread.start()

    def reserve(self) -> str:
        """A new incarnation."""
        return uuid.uuid4().hex

    def dismiss(self, incarnation: str) -> None:
        """Nothing: nothing was made ready for it."""

    def place(self, order: ServerOrder) -> None:
        """Have a job submitted. What comes of that the listener is told.

        Raises:
            NRPError: it asks for what the cluster does not have.
            OSError: the simulation's folder cannot be written to.
        """
        settings, setup = self._settings, order.setup
        folder = SimulationFolder(setup.folder, setup.simulation_id)
        job_order = JobOrder(
            setup=setup,
            limits=dict(order.limits),
            stop_grace_s=settings.stop_grace_s,
            orphaned_s=max(settings.orphaned_s, self.ORPHANED_S),
            heartbeat=settings.heartbeat_file,
        )
        server = self._ordered(order, folder, job_order.write(folder))
        server.context = order.launch.context
        server.note.write(folder)  # before it is submitted: whoever finds it looks for the job
        self._follow(server)
        self._listener.server_waits(setup.incarnation, QueuePlace(self.BEING_SUBMITTED))
        with self._changed:
            self._ask(server, self._submit)

    def stop(self, incarnation: str) -> None:
        """Have a server end in order, or its job not begin."""
        self._end(incarnation, Ending.STOP)

    def kill(self, incarnation: str) -> None:
        """Have the cluster end a server."""
        self._end(incarnation, Ending.CANCEL)

    def end_processes(
        self, incarnation: str, folder: SimulationFolder, server: int | None, spawner: int | None
    ) -> None:
        """Nothing: its job does that, and the cluster after it."""

    def forget(self, incarnation: str) -> None:
        """Wait until nothing of a server uses its folder; not for a node that is lost."""
        with self._changed:
            server = self._servers.get(incarnation)
            if server is None:
                return
            server.over_at = min(server.over_at, time.monotonic())
            self._release(server)
            self._note_change()
            if not self._changed.wait_for(lambda: self._is_closing or self._is_free(server), FREED_WITHIN_S):
                number = server.folder.simulation_id
                log.warning("The job of simulation %d is not over, its folder is deleted all the same", number)
            del self._servers[incarnation]
        self._bus.unsubscribe(self._presence_of(incarnation))

    def server_pids(self) -> set[int]:
        """None: they are elsewhere."""
        return set()

    def leave(self) -> None:
        """Look no more; jobs run on, and wait on."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._calls.shutdown(cancel_futures=True)

    def _follow(self, server: S) -> None:
        with self._changed:
            self._servers[server.incarnation] = server
        self._bus.subscribe(self._presence_of(server.incarnation), partial(self._hear, server))

    def _presence_of(self, incarnation: str) -> str:
        return self._settings.topics.server_presence(incarnation)

    def _end(self, incarnation: str, ending: Ending) -> None:
        with self._changed:
            server = self._servers.get(incarnation)
            if server is None or server.is_over or ending <= server.ending:
                return
            server.urge(ending)
            server.retry_at, server.hurry_until = -math.inf, server.ending_since + ENDING_S
            self._urged(server)
            self._note_change()

    # -- what is told --------------------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _hear(self, server: S, _topic: str, payload: bytes) -> None:
        presence = ServerPresence.from_json(payload) if payload else None
        with self._changed:
            was_online, server.is_online = server.is_online, presence is not None and presence.online
            if server.is_online and not server.is_over:
                self._note_running(server)
            elif was_online and not server.is_online:
                server.hurry_until = time.monotonic() + ENDING_S
            self._note_change()

    # -- the threads that look -----------------------------------------------------------------------------------------

    def _watch(self, patience: Callable[[], float], look: Callable[[], None]) -> None:
        while True:
            with self._changed:
                # Woken by whatever changes: a server that leaves the bus makes it impatient.
                while not self._is_closing and (left_s := patience()) > 0:
                    self._changed.wait(left_s)
                if self._is_closing:
                    return
            try:
                look()
            except Exception:
                log.exception("A look at the jobs of %s failed", self.CLUSTER)

    def _until_next_look(self) -> float:
        return self._looked_at + LOOK_S - time.monotonic()

    def _until_next_look_into_folders(self) -> float:
        return self._folders_looked_at + self._pace_s() - time.monotonic()

    def _pace_s(self) -> float:
        """How long not to look when nothing is told."""
        now = time.monotonic()
        is_ending = any(now < each.hurry_until and not each.is_over for each in self._servers.values())
        return ENDING_LOOK_S if is_ending else LOOK_S

    def _read_ends(self) -> None:
        """Take note of servers that have ended, as their folders say; show that this launcher lives."""
        self._heartbeat.beat()
        with self._changed:
            now = self._folders_looked_at = time.monotonic()
            for server in self._servers.values():
                if not server.is_over and (now < server.hurry_until or now >= server.read_at + LOOK_S):
                    server.read_at = now
                    self._read_end(server)

    def _tell_all_told(self) -> None:
        if self._all_told is not None:
            all_told, self._all_told = self._all_told, None
            all_told()

    # -- what is seen of one server ------------------------------------------------------------------------------------

    def _note_running(self, server: S) -> None:
        if not server.is_running:
            server.running_at = time.monotonic()
            self._listener.server_spawned(server.incarnation)

    def _read_end(self, server: S) -> None:
        """Take note of how a server says that it ended, unless the cluster knows better."""
        end = ServerEnd.read(server.folder)
        # What killed it, and why it was told to end when this launcher did not, only the cluster knows.
        if end is not None and (end.reason is not None or server.ending or (end.exit_code >= 0 and not end.is_told)):
            self._tell_end_of(server, end)

    def _tell_end_of(self, server: S, end: ServerEnd) -> None:
        self._tell_end(server, describe_server_end(end.exit_code, end.reason), by_placement=end.reason is not None)

    def _tell_end(self, server: S, how: str, *, by_placement: bool = False) -> None:
        if not server.is_over:
            server.over_at = time.monotonic()
            words = last_words(server.folder.log) if by_placement else ""
            self._listener.server_ended(server.incarnation, f"{how}{words}", by_placement=by_placement)
            self._note_change()

    def _write_note(self, server: S) -> None:
        """Keep what is newly known of a job."""
        try:
            server.note.write(server.folder)
        except OSError as error:  # then the next launcher finds the job in the cluster
            log.error("The job of simulation %d is not noted down: %s", server.folder.simulation_id, error)

    # -- what is asked of the cluster: in other threads ----------------------------------------------------------------

    def _ask(self, server: S, call: Callable[[S], None]) -> None:
        """Ask something for a server, one thing at a time, and not too often."""

        def ask() -> None:
            tracing.enter(server.context)
            try:
                call(server)
            except NotNow as reason:
                self._put_off(server, str(reason), reason.retry_after_s)
            except Exception:
                log.exception("A call of %s failed", self.CLUSTER)
                self._put_off(server, f"A call of {self.CLUSTER} failed")
            else:
                with self._changed:
                    server.failures, server.obstacle = 0, ""
            finally:
                with self._changed:
                    server.is_busy = False
                    self._note_change()

        if not server.is_busy and not self._is_closing and time.monotonic() >= server.retry_at:
            server.is_busy = True
            self._calls.submit(ask)

    def _put_off(self, server: S, obstacle: str, at_least_s: float = 0.0) -> None:
        with self._changed:
            if not server.obstacle:
                log.warning("Simulation %d: %s; it is tried again", server.folder.simulation_id, obstacle)
            server.obstacle = obstacle
            server.retry_at = time.monotonic() + max(at_least_s, self._delay_after(server.failures))
            server.failures += 1
