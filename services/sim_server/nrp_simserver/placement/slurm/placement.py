"""Simulation servers as jobs of a Slurm cluster.

One thread looks once a second at the queue, for all jobs together. What it finds decides what is to be done.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from nrp_common.bus import Bus
from nrp_common.messages import Command, CommandEvent
from nrp_simserver.placement.batch import BatchPlacement, BatchServer, Ending
from nrp_simserver.placement.job import Claim
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
from nrp_simserver.server_end import ServerEnd
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder

log = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 1.0
"""Between the first attempt to submit a job and the second, twice that after each further one."""

LONGEST_RETRY_S: Final = 30.0
"""Between two attempts to submit a job."""

MISSED_LOOKS: Final = 3
"""How often a job has to be missing in the queue to count as gone."""

STOP_AGAIN_S: Final = 0.5
"""Whoever asks for a stop over the bus asks the server, too. If that is still there by then, it is asked once more."""

CANCELLED_WITHIN_S: Final = 5.0
"""How long a job has to end after `scancel` before it is killed."""

GIVEN_UP_AFTER_S: Final = 30.0
"""After how long a job that was killed is not waited for: its node does not answer."""


@dataclass
class SlurmServer(BatchServer[JobNote]):
    """A simulation server in Slurm.

    Attributes:
        submitted_at: when the last attempt to submit its job ended, in `time.monotonic()` seconds.
        is_gone: whether its job is over.
        missed: for how many looks its job was missing in the queue.
        asked_to_stop: whether it was asked to over the bus.
    """

    submitted_at: float = -math.inf
    is_gone: bool = False
    missed: int = 0
    asked_to_stop: bool = False


class SlurmPlacement(BatchPlacement[SlurmServer]):
    """A `Placement` in a Slurm cluster.

    Args:
        settings: the launcher's.
        bus: the launcher's.
        listener: is told what becomes of servers.
        all_told: called once it is known of all servers of earlier launchers what they are.

    Raises:
        SettingsError: Slurm's programs are missing.
    """

    CLUSTER = "Slurm"
    ORPHANED_S = 60.0
    BEING_SUBMITTED = "Its job is being submitted"

    def __init__(self, settings: LauncherSettings, bus: Bus, listener: Listener, all_told: Callable[[], None]) -> None:
        super().__init__(settings, bus, listener, all_told)
        self._slurm = Slurm(spawner_environment(os.environ))
        self._python = str(settings.python or sys.executable)
        self._silence: str | None = None  # why the queue is not known

    def _prepare(self) -> None:
        check_site(self._slurm, self._settings)

    def close(self) -> None:
        """Cancel all jobs that are left."""
        with self._changed:
            left = [each for each in self._servers.values() if each.note.id is not None and not each.is_over]
        self.leave()
        for server in left:
            self._cancel(server, Ending.CANCEL)

    def _ordered(self, order: ServerOrder, folder: SimulationFolder, order_file: Path) -> SlurmServer:
        return SlurmServer(order.setup.incarnation, folder, job_of(order, order_file, self._python, self._settings))

    def _found(self, incarnation: str, folder: SimulationFolder) -> SlurmServer | None:
        note = JobNote.read(folder)
        return None if note is None else SlurmServer(incarnation, folder, note)

    def _is_free(self, server: SlurmServer) -> bool:
        if not server.is_gone or server.is_online:
            return False
        try:  # on a node that is lost it may run on
            return Claim.read(server.folder) is None or ServerEnd.read(server.folder) is not None
        except OSError:
            return False

    # -- the queue -----------------------------------------------------------------------------------------------------

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
                self._note_change()
        self._tell_all_told()

    def _note_silence(self, why: str, servers: Sequence[SlurmServer]) -> None:
        if self._silence is None:
            log.warning("Slurm's queue is not known, trying again: %s", why)
        self._silence = why
        with self._changed:
            for server in servers:
                if server.ending and server.note.id is None and not server.may_have_job and not server.is_busy:
                    self._note_unsubmitted_end(server)
                elif not server.is_running and not server.is_over:
                    self._listener.server_waits(server.incarnation, QueuePlace(f"Slurm does not answer: {why}"))

    # -- what is seen of one server ------------------------------------------------------------------------------------

    def _judge(self, server: SlurmServer, jobs: Sequence[SlurmJob], queue: _Queue, looked_at: float) -> None:
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
                self._tell_slurm(server, Ending.STOP)
        else:
            if job.state == "RUNNING" and not server.is_over:
                self._note_running(server)
            self._hasten(server)

    def _choose(self, server: SlurmServer, jobs: Sequence[SlurmJob]) -> SlurmJob | None:
        """The job that counts: the one that has the claim, else the one that is known, else the first one."""
        if len(jobs) <= 1:
            return jobs[0] if jobs else None
        claim = Claim.read(server.folder)
        by_id = {str(job.id): job for job in jobs}
        claimed = by_id.get(claim.job) if claim is not None else None
        return claimed or by_id.get(str(server.note.id)) or min(jobs, key=lambda job: job.id)

    def _judge_absence(self, server: SlurmServer, looked_at: float) -> None:
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
        else:
            if server.obstacle:
                why = f"Slurm does not take its job, trying again: {server.obstacle}"
                self._listener.server_waits(server.incarnation, QueuePlace(why))
            self._ask(server, self._submit)

    def _hasten(self, server: SlurmServer) -> None:
        """Have a job that has a node end, when it has to: by the bus, then by Slurm, then at once."""
        now = time.monotonic()
        if now - server.over_at >= CANCELLED_WITHIN_S and server.ending < Ending.CANCEL:
            server.urge(Ending.CANCEL)  # its server has ended, what is left of it does not
        since_s = now - server.ending_since
        match server.ending:
            case Ending.STOP:
                if server.is_online and not server.asked_to_stop and since_s >= STOP_AGAIN_S:
                    server.asked_to_stop = True
                    self._ask_to_stop(server)
            case Ending.CANCEL:
                if server.told < Ending.CANCEL:
                    self._tell_slurm(server, Ending.CANCEL)
                elif since_s >= CANCELLED_WITHIN_S:
                    server.urge(Ending.KILL)
            case Ending.KILL:
                self._tell_slurm(server, Ending.KILL)
                if since_s >= GIVEN_UP_AFTER_S:
                    self._tell_end(server, f"Job {server.note.id} of the simulation does not end: its node is lost")

    def _ask_to_stop(self, server: SlurmServer) -> None:
        topics = self._settings.topics
        command = Command(
            deadline=time.time() + self._settings.stop_grace_s,
            event=CommandEvent.STOPPED,
            reply_to=topics.reply(f"launcher_{self._settings.launcher_name}"),  # nobody listens
            correlation=uuid.uuid4().hex,
        )
        self._bus.publish(topics.command(server.folder.simulation_id), command)

    # -- how it ended --------------------------------------------------------------------------------------------------

    def _note_end(self, server: SlurmServer, job: SlurmJob) -> None:
        """What a job says of its server's end counts, unless it was ended from outside, which only Slurm knows of."""
        end = ServerEnd.read(server.folder)
        if end is not None and (job.state in words.ENDED_BY_ITSELF or end.reason is not None):
            self._tell_end_of(server, end)
        else:
            by_slurm = job.state not in words.ENDED_BY_ITSELF
            self._tell_end(server, words.end_of(job, str(server.folder.log)), by_placement=by_slurm)

    def _note_unsubmitted_end(self, server: SlurmServer) -> None:
        server.is_gone = True
        self._tell_end(server, "The simulation was ended before its job was submitted")

    def _note_absence(self, server: SlurmServer) -> None:
        end = ServerEnd.read(server.folder)
        if end is None:
            how = f"Slurm does not know job {server.note.id} of the simulation any more, nor is it noted how it ended"
            self._tell_end(server, how, by_placement=True)
        elif end.is_told and end.reason is None:
            self._tell_end(server, f"Slurm ended job {server.note.id} of the simulation", by_placement=True)
        else:
            self._tell_end_of(server, end)

    # -- what may take long: in other threads --------------------------------------------------------------------------

    def _submit(self, server: SlurmServer) -> None:
        with self._changed:
            if server.ending and not server.may_have_job:
                self._note_unsubmitted_end(server)
                return
            might_have_job, server.may_have_job = server.may_have_job, True
        try:
            number = self._slurm.submit(server.note.options, server.note.script)
        except SubmissionRefused as refusal:
            with self._changed:
                server.is_gone = True
                how = f"Slurm does not take the job of the simulation: {refusal}"
                self._tell_end(server, how, by_placement=True)
        except SlurmUnreachable:
            server.may_have_job = might_have_job
            raise
        else:
            log.info("Simulation %d is job %d", server.folder.simulation_id, number)
            with self._changed:
                self._note_id(server, number)
        finally:
            server.submitted_at = time.monotonic()

    def _delay_after(self, failures: int) -> float:
        return min(FIRST_RETRY_S * 2.0**failures, LONGEST_RETRY_S)

    def _note_id(self, server: SlurmServer, number: int) -> None:
        server.note = server.note.model_copy(update={"id": number})
        server.obstacle, server.retry_at = "", -math.inf  # what kept it from being submitted is over
        self._write_note(server)

    def _tell_slurm(self, server: SlurmServer, ending: Ending) -> None:
        """Have Slurm end a job, once; again at the next look when it did not hear."""
        if server.told < ending:
            self._ask(server, partial(self._cancel, ending=ending))

    def _cancel(self, server: SlurmServer, ending: Ending) -> None:
        assert server.note.id is not None
        if self._cancel_job(server.note.id, *_CANCEL_OPTIONS[ending]):
            with self._changed:
                server.told = max(server.told, ending if ending is not Ending.STOP else Ending.NO)

    def _cancel_job(self, number: int, *options: str) -> bool:
        try:
            self._slurm.cancel(number, *options)
        except SlurmUnavailable as error:
            log.warning("Job %d cannot be cancelled now: %s", number, error)
            return False
        return True


_CANCEL_OPTIONS: Final[Mapping[Ending, Sequence[str]]] = {
    Ending.STOP: ("--state=PENDING",),  # one that has just begun is asked to stop
    Ending.CANCEL: (),
    Ending.KILL: ("--signal=KILL", "--full"),
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
