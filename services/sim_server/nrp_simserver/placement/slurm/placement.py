"""Simulation servers as jobs of a Slurm cluster.

One thread looks once a second at the queue, for all jobs together. What it finds decides what is to be done, so that
whatever was missed while Slurm, the broker or this launcher was away is made up for. Another one, which no program of
Slurm can hold up, looks into the simulations' folders, where each job notes down how its server ended. Further ones
submit and cancel.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Final

from nrp_common.bus import Bus
from nrp_common.messages import Command, CommandEvent, ServerPresence
from nrp_simserver.placement.heartbeat import Heartbeat
from nrp_simserver.placement.job import Claim, JobOrder
from nrp_simserver.placement.local.spawner_folder import spawner_environment
from nrp_simserver.placement.placement import Listener, QueuePlace, ServerOrder
from nrp_simserver.placement.slurm import words
from nrp_simserver.placement.slurm.commands import (
    Slurm,
    SlurmJob,
    SlurmUnavailable,
    SlurmUnreachable,
    SubmissionRefused,
)
from nrp_simserver.placement.slurm.job_request import JobNote, job_of
from nrp_simserver.placement.slurm.site import check_site
from nrp_simserver.resources.capacity import Room
from nrp_simserver.server_end import ServerEnd, describe_server_end, last_words
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder

log = logging.getLogger(__name__)

CAPACITY: Final = 100
"""How many simulations are with Slurm at once, waiting ones included, when nothing else is set."""

LOOK_S: Final = 1.0
"""Between two calls of `squeue`."""

FOLDERS_LOOK_S: Final = 1.0
"""Between two looks into the simulations' folders."""

ENDING_LOOK_S: Final = 0.05
"""Between two looks into the folder of a simulation whose server has left the bus."""

ENDING_S: Final = 5.0
"""For how long it is looked at so often."""

CALLS_AT_ONCE: Final = 4
"""Programs of Slurm that run at the same time, beside `squeue`."""

LONGEST_RETRY_S: Final = 30.0
"""Between two attempts to submit a job; they begin with a second."""

MISSED_LOOKS: Final = 3
"""How often a job has to be missing in the queue to count as gone."""

ORPHANED_S: Final = 60.0
"""The least time that jobs run on without a launcher: its sign of life crosses a file system."""

STOP_AGAIN_S: Final = 0.5
"""Whoever asks for a stop over the bus asks the server, too. If that is still there by then, it is asked once more."""

CANCELLED_WITHIN_S: Final = 5.0
"""How long a job has to end after `scancel` before it is killed."""

GIVEN_UP_AFTER_S: Final = 30.0
"""After how long a job that was killed is not waited for: its node does not answer."""

FREED_WITHIN_S: Final = 15.0
"""How long the folder of a simulation that is over is left to its job, which may still be closing its files."""


class _Ending(IntEnum):
    """How urgently a server is to end."""

    NO = 0
    STOP = 1
    CANCEL = 2
    KILL = 3


@dataclass
class _Server:
    """A simulation server, from its order until nothing of it is left.

    Attributes:
        incarnation: the server's.
        folder: the simulation's.
        note: of its job.
        may_be_submitted: whether Slurm may have its job, although it did not say so.
        submitted_at: when the last attempt to submit it ended, in `time.monotonic()` seconds.
        retry_at: when the next one is due.
        retry_s: how long to wait after that.
        obstacle: why it was not submitted so far, in Slurm's words.
        is_busy: whether a program of Slurm is at work on it.
        is_online: whether it is on the bus.
        running_at: when the listener was told that it runs.
        over_at: when the listener was told how it ended.
        is_gone: whether its job is over, too.
        left_bus_at: when it was last seen to leave the bus.
        missed: for how many looks its job was missing in the queue.
        ending: how urgently it is to end.
        ending_since: since when.
        asked_to_stop: whether it was asked to over the bus.
        is_cancelled: up to which urgency Slurm was told.
    """

    incarnation: str
    folder: SimulationFolder
    note: JobNote
    may_be_submitted: bool = True
    submitted_at: float = -math.inf
    retry_at: float = -math.inf
    retry_s: float = LOOK_S
    obstacle: str = ""
    is_busy: bool = False
    is_online: bool = False
    running_at: float = math.inf
    over_at: float = math.inf
    is_gone: bool = False
    left_bus_at: float = -math.inf
    missed: int = 0
    ending: _Ending = _Ending.NO
    ending_since: float = math.inf
    asked_to_stop: bool = False
    is_cancelled: _Ending = _Ending.NO

    @property
    def is_over(self) -> bool:
        """Whether the listener was told how it ended."""
        return self.over_at < math.inf

    @property
    def is_free(self) -> bool:
        """Whether nobody uses its folder, as far as is known: on a node that is lost it may run on."""
        if not self.is_gone or self.is_online:
            return False
        return Claim.read(self.folder) is None or ServerEnd.read(self.folder) is not None


class SlurmPlacement:
    """A `Placement` in a Slurm cluster.

    Args:
        settings: the launcher's.
        bus: the launcher's.
        listener: is told what becomes of servers.
        all_told: called once it is known of all servers of earlier launchers what they are.

    Raises:
        SettingsError: Slurm's programs are missing, or nodes could not work with these settings.
    """

    def __init__(self, settings: LauncherSettings, bus: Bus, listener: Listener, all_told: Callable[[], None]) -> None:
        self.room = Room(places=settings.capacity or CAPACITY, cores=None, memory_mb=None, gpus=None)
        self._settings = settings
        self._bus = bus
        self._listener = listener
        self._all_told: Callable[[], None] | None = all_told
        self._slurm = Slurm(spawner_environment(os.environ))
        self._python = str(settings.python or sys.executable)
        self._heartbeat = Heartbeat(settings.heartbeat_file)
        self._changed = threading.Condition(threading.RLock())  # guards the two below and all of each server
        self._servers: dict[str, _Server] = {}
        self._is_closing = False
        self._silence: str | None = None  # why the queue is not known
        self._looked_at = -math.inf
        self._folders_looked_at = -math.inf
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, "slurm")
        looks_at = {
            "slurm queue": (self._until_next_look, self._look),
            "slurm folders": (self._until_next_look_into_folders, self._read_ends),
        }
        self._threads = [
            threading.Thread(target=self._watch, args=look, name=name, daemon=True) for name, look in looks_at.items()
        ]

    # -- what the launcher asks ----------------------------------------------------------------------------------------

    def start(self, leftovers: Mapping[str, SimulationFolder]) -> None:
        """Check what can be checked of the nodes, find the jobs of earlier launchers, and look at the queue.

        Raises:
            SettingsError: nodes could not work with these settings.
        """
        check_site(self._slurm, self._settings)
        self._heartbeat.beat()
        for incarnation, folder in leftovers.items():
            if (note := JobNote.read(folder)) is not None:
                self._follow(_Server(incarnation, folder, note))
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
            OSError: the simulation's folder cannot be written to.
        """
        settings, setup = self._settings, order.setup
        folder = SimulationFolder(setup.folder, setup.simulation_id)
        job_order = JobOrder(
            setup=setup,
            limits=dict(order.limits),
            stop_grace_s=settings.stop_grace_s,
            orphaned_s=max(settings.orphaned_s, ORPHANED_S),
            heartbeat=settings.heartbeat_file,
        )
        note = job_of(order, job_order.write(folder), self._python, settings)
        note.write(folder)  # before it is submitted: who finds it looks for the job
        server = _Server(setup.incarnation, folder, note, may_be_submitted=False)
        self._follow(server)
        self._listener.server_waits(setup.incarnation, QueuePlace("Its job is being submitted"))
        with self._changed:
            self._begin(server, self._submit)

    def stop(self, incarnation: str) -> None:
        """Have a server end in order, or its job not begin."""
        self._end(incarnation, _Ending.STOP)

    def kill(self, incarnation: str) -> None:
        """Have its job cancelled, and killed when that takes long."""
        self._end(incarnation, _Ending.CANCEL)

    def end_processes(
        self, incarnation: str, folder: SimulationFolder, server: int | None, spawner: int | None
    ) -> None:
        """Nothing: its job does that, and Slurm after it."""

    def forget(self, incarnation: str) -> None:
        """Wait until its job is over and the server, should a lost node still run it, has left the bus."""
        with self._changed:
            server = self._servers.get(incarnation)
            if server is None:
                return
            server.over_at = min(server.over_at, time.monotonic())
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._is_closing or server.is_free, FREED_WITHIN_S):
                log.warning("Job %s is still not over, its folder is deleted all the same", server.note.id)
            del self._servers[incarnation]
        self._bus.unsubscribe(self._presence_of(incarnation))

    def server_pids(self) -> set[int]:
        """None: they are elsewhere."""
        return set()

    def close(self) -> None:
        """Cancel all jobs that are left."""
        with self._changed:
            left = [each for each in self._servers.values() if each.note.id is not None and not each.is_over]
        self.leave()
        for server in left:
            self._cancel(server, _Ending.CANCEL)

    def leave(self) -> None:
        """Look no more; jobs run on, and wait on."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._calls.shutdown(cancel_futures=True)

    def _follow(self, server: _Server) -> None:
        with self._changed:
            self._servers[server.incarnation] = server
        self._bus.subscribe(self._presence_of(server.incarnation), partial(self._hear, server))

    def _presence_of(self, incarnation: str) -> str:
        return self._settings.topics.server_presence(incarnation)

    def _end(self, incarnation: str, ending: _Ending) -> None:
        with self._changed:
            server = self._servers.get(incarnation)
            if server is not None and ending > server.ending:
                self._urge(server, ending)
                self._changed.notify_all()

    # -- the bus -------------------------------------------------------------------------------------------------------

    def _hear(self, server: _Server, _topic: str, payload: bytes) -> None:
        presence = ServerPresence.from_json(payload) if payload else None
        with self._changed:
            was_online, server.is_online = server.is_online, presence is not None and presence.online
            if server.is_online and not server.is_over:
                self._note_running(server)
            elif was_online and not server.is_online:
                server.left_bus_at = time.monotonic()
            self._changed.notify_all()

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
                log.exception("A look at the jobs of Slurm failed")

    def _until_next_look(self) -> float:
        return self._looked_at + LOOK_S - time.monotonic()

    def _until_next_look_into_folders(self) -> float:
        now = time.monotonic()
        is_ending = any(now - each.left_bus_at < ENDING_S and not each.is_over for each in self._servers.values())
        return self._folders_looked_at + (ENDING_LOOK_S if is_ending else FOLDERS_LOOK_S) - now

    def _look(self) -> None:
        began = self._looked_at = time.monotonic()
        with self._changed:
            servers = list(self._servers.values())
        if not servers:
            self._tell_all_told()
            return
        try:
            jobs = self._slurm.jobs()
        except SlurmUnavailable as error:
            self._note_silence(str(error), servers)
            return
        if self._silence is not None:
            log.info("Slurm answers again")
            self._silence = None
        by_name: dict[str, dict[int, SlurmJob]] = {}
        for job in jobs:
            by_name.setdefault(job.name, {})[job.id] = job
        by_id = {job.id: job for job in jobs}
        queue = _Queue(jobs)
        for server in servers:
            with self._changed:
                own = by_name.get(server.note.name, {})
                if (known := by_id.get(server.note.id or 0)) is not None:  # a site may give jobs names of its own
                    own[known.id] = known
                self._judge(server, list(own.values()), queue, began)
                self._changed.notify_all()
        self._tell_all_told()

    def _note_silence(self, why: str, servers: Sequence[_Server]) -> None:
        if self._silence is None:
            log.warning("Slurm's queue is not known, trying again: %s", why)
        self._silence = why
        with self._changed:
            for server in servers:
                if server.ending and server.note.id is None and not server.may_be_submitted and not server.is_busy:
                    self._note_unsubmitted_end(server)
                elif server.running_at == math.inf and not server.is_over:
                    self._listener.server_waits(server.incarnation, QueuePlace(f"Slurm does not answer: {why}"))

    def _tell_all_told(self) -> None:
        if self._all_told is not None:
            all_told, self._all_told = self._all_told, None
            all_told()

    # -- what is seen of one server; `_changed` is held ----------------------------------------------------------------

    def _read_ends(self) -> None:
        """Take note of servers that have ended by themselves, as their folders say; show that this launcher lives."""
        self._heartbeat.beat()
        with self._changed:
            self._folders_looked_at = time.monotonic()
            for server in self._servers.values():
                if not server.is_over and (end := ServerEnd.read(server.folder)) is not None and _says_all(end):
                    self._note_end_of(server, end)
                    self._changed.notify_all()

    def _judge(self, server: _Server, jobs: Sequence[SlurmJob], queue: _Queue, looked_at: float) -> None:
        """Do what follows from the jobs of a server's name: one, none, or one that was submitted twice."""
        job = self._choose(server, jobs)
        if job is None:
            self._judge_absence(server, looked_at)
            return
        server.missed = 0
        if server.note.id != job.id:
            self._note_id(server, job.id)
        for other in jobs:
            if other.id != job.id and other.state in words.WAITING:
                log.warning("Job %d was submitted twice, as %d, which is cancelled", job.id, other.id)
                self._calls.submit(self._cancel_job, other.id)
        if job.state in words.ENDED:
            server.is_gone = True
            self._note_end(server, job)
        elif job.state in words.WAITING:
            if server.running_at < looked_at:  # its node may be lost to Slurm only
                self._tell_end(
                    server,
                    f"Slurm put job {job.id} of the simulation, which ran, into the queue again",
                    by_placement=True,
                )
            if not server.is_over:
                self._listener.server_waits(server.incarnation, queue.place_of(job))
            if server.ending or server.is_over:
                self._tell_slurm(server, _Ending.STOP)
        else:
            if job.state == "RUNNING" and not server.is_over:
                self._note_running(server)
            self._hasten(server)

    def _choose(self, server: _Server, jobs: Sequence[SlurmJob]) -> SlurmJob | None:
        """The job that counts: the one that has the claim, else the one that is known, else the first one."""
        if len(jobs) <= 1:
            return jobs[0] if jobs else None
        claim = Claim.read(server.folder)
        by_id = {str(job.id): job for job in jobs}
        claimed = by_id.get(claim.job) if claim is not None else None
        return claimed or by_id.get(str(server.note.id)) or min(jobs, key=lambda job: job.id)

    def _judge_absence(self, server: _Server, looked_at: float) -> None:
        if server.is_busy or server.submitted_at >= looked_at:
            return
        if server.is_over:
            server.is_gone = True
        elif server.note.id is not None:
            server.missed += 1
            if server.missed >= MISSED_LOOKS:
                server.is_gone = True
                self._note_absence(server)
        elif server.ending:
            self._note_unsubmitted_end(server)
        elif time.monotonic() >= server.retry_at:
            self._begin(server, self._submit)
        else:
            self._listener.server_waits(
                server.incarnation, QueuePlace(f"Slurm does not take its job, trying again: {server.obstacle}")
            )

    def _note_running(self, server: _Server) -> None:
        if server.running_at == math.inf:
            server.running_at = time.monotonic()
            self._listener.server_spawned(server.incarnation)

    def _hasten(self, server: _Server) -> None:
        """Have a job that has a node end, when it has to: by the bus, then by Slurm, then at once."""
        now = time.monotonic()
        if now - server.over_at >= CANCELLED_WITHIN_S and server.ending < _Ending.CANCEL:
            self._urge(server, _Ending.CANCEL)  # its server has ended, what is left of it does not
        since_s = now - server.ending_since
        match server.ending:
            case _Ending.STOP:
                if server.is_online and not server.asked_to_stop and since_s >= STOP_AGAIN_S:
                    server.asked_to_stop = True
                    self._ask_to_stop(server)
            case _Ending.CANCEL:
                if server.is_cancelled < _Ending.CANCEL:
                    self._tell_slurm(server, _Ending.CANCEL)
                elif since_s >= CANCELLED_WITHIN_S:
                    self._urge(server, _Ending.KILL)
            case _Ending.KILL:
                self._tell_slurm(server, _Ending.KILL)
                if since_s >= GIVEN_UP_AFTER_S:
                    self._tell_end(server, f"Job {server.note.id} of the simulation does not end: its node is lost")

    def _urge(self, server: _Server, ending: _Ending) -> None:
        server.ending, server.ending_since = ending, time.monotonic()

    def _ask_to_stop(self, server: _Server) -> None:
        topics = self._settings.topics
        command = Command(
            deadline=time.time() + self._settings.stop_grace_s,
            event=CommandEvent.STOPPED,
            reply_to=topics.reply(f"launcher_{self._settings.launcher_name}"),  # nobody listens
            correlation=uuid.uuid4().hex,
        )
        self._bus.publish(topics.command(server.folder.simulation_id), command)

    # -- how it ended; `_changed` is held ------------------------------------------------------------------------------

    def _note_end(self, server: _Server, job: SlurmJob) -> None:
        """What a job says of its server's end counts, unless it was ended from outside, which only Slurm knows of."""
        end = ServerEnd.read(server.folder)
        if end is not None and (job.state in words.ENDED_BY_ITSELF or end.reason is not None):
            self._note_end_of(server, end)
        else:
            by_slurm = job.state not in words.ENDED_BY_ITSELF
            self._tell_end(server, words.end_of(job, str(server.folder.log)), by_placement=by_slurm)

    def _note_unsubmitted_end(self, server: _Server) -> None:
        server.is_gone = True
        self._tell_end(server, "The simulation was ended before its job was submitted")

    def _note_absence(self, server: _Server) -> None:
        end = ServerEnd.read(server.folder)
        if end is None:
            how = f"Slurm does not know job {server.note.id} of the simulation any more, nor is it noted how it ended"
            self._tell_end(server, how, by_placement=True)
        elif end.is_told and end.reason is None:
            self._tell_end(server, f"Slurm ended job {server.note.id} of the simulation", by_placement=True)
        else:
            self._note_end_of(server, end)

    def _note_end_of(self, server: _Server, end: ServerEnd) -> None:
        how = describe_server_end(end.exit_code, end.reason)
        self._tell_end(server, how, by_placement=end.reason is not None)

    def _tell_end(self, server: _Server, how: str, *, by_placement: bool = False) -> None:
        if not server.is_over:
            server.over_at = time.monotonic()
            words_of_it = last_words(server.folder.log) if by_placement else ""
            self._listener.server_ended(server.incarnation, f"{how}{words_of_it}", by_placement=by_placement)

    # -- what may take long: in other threads --------------------------------------------------------------------------

    def _begin(self, server: _Server, call: Callable[[_Server], None]) -> None:
        """Have a program of Slurm work on a server, one at a time. `_changed` is held."""

        def work() -> None:
            try:
                call(server)
            except Exception:
                log.exception("A call of Slurm failed")
            finally:
                with self._changed:
                    server.is_busy = False
                    self._changed.notify_all()

        if not server.is_busy and not self._is_closing:
            server.is_busy = True
            self._calls.submit(work)

    def _submit(self, server: _Server) -> None:
        with self._changed:
            if server.ending and not server.may_be_submitted:
                self._note_unsubmitted_end(server)
                return
            may_be_submitted, server.may_be_submitted = server.may_be_submitted, True
        number: int | None = None
        obstacle = refusal = ""
        try:
            number = self._slurm.submit(server.note.options, server.note.script)
        except SubmissionRefused as error:
            refusal = str(error)
        except SlurmUnavailable as error:
            obstacle = str(error)
            may_be_submitted = may_be_submitted or not isinstance(error, SlurmUnreachable)
            log.warning("Simulation %d is not submitted yet: %s", server.folder.simulation_id, error)
        with self._changed:
            server.submitted_at = time.monotonic()
            if number is not None:
                log.info("Simulation %d is job %d", server.folder.simulation_id, number)
                self._note_id(server, number)
            elif refusal:
                server.is_gone = True
                how = f"Slurm does not take the job of the simulation: {refusal}"
                self._tell_end(server, how, by_placement=True)
            else:
                server.obstacle, server.may_be_submitted = obstacle, may_be_submitted
                server.retry_at = server.submitted_at + server.retry_s
                server.retry_s = min(2 * server.retry_s, LONGEST_RETRY_S)

    def _note_id(self, server: _Server, number: int) -> None:
        server.note = server.note.model_copy(update={"id": number})
        try:
            server.note.write(server.folder)
        except OSError as error:  # then it is found by its name
            log.error("The job of simulation %d is not noted down: %s", server.folder.simulation_id, error)

    def _tell_slurm(self, server: _Server, ending: _Ending) -> None:
        """Have Slurm end a job, once; again at the next look when it did not hear. `_changed` is held."""
        if server.is_cancelled < ending:
            self._begin(server, partial(self._cancel, ending=ending))

    def _cancel(self, server: _Server, ending: _Ending) -> None:
        assert server.note.id is not None
        if self._cancel_job(server.note.id, *_CANCEL_OPTIONS[ending]):
            with self._changed:
                server.is_cancelled = max(server.is_cancelled, ending if ending is not _Ending.STOP else _Ending.NO)

    def _cancel_job(self, number: int, *options: str) -> bool:
        try:
            self._slurm.cancel(number, *options)
        except SlurmUnavailable as error:
            log.warning("Job %d cannot be cancelled now: %s", number, error)
            return False
        return True


_CANCEL_OPTIONS: Final[Mapping[_Ending, Sequence[str]]] = {
    _Ending.STOP: ("--state=PENDING",),  # one that has just begun is asked to stop
    _Ending.CANCEL: (),
    _Ending.KILL: ("--signal=KILL", "--full"),
}


class _Queue:
    """Who waits before whom, as far as Slurm shows it."""

    def __init__(self, jobs: Sequence[SlurmJob]) -> None:
        self._waiting = [each for each in jobs if each.state in words.WAITING]

    def place_of(self, job: SlurmJob) -> QueuePlace:
        """The place of a job among those that wait for the same partition, by priority."""
        rivals = [each for each in self._waiting if each.partition == job.partition]
        ahead = sum((-each.priority, each.id) < (-job.priority, job.id) for each in rivals)
        return QueuePlace(f"{words.why_waiting(job)}", ahead + 1, len(rivals))


def _says_all(end: ServerEnd) -> bool:
    """Whether there is nothing that Slurm knows better: what killed a server is not known to the job."""
    return end.reason is not None or (end.exit_code >= 0 and not end.is_told)
