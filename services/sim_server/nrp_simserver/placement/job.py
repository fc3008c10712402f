"""A job of a cluster: the process that a node runs for one simulation, and the parent of its simulation server.

It does on the node what launcher and spawner do on their own machine: forks the server, keeps the limits for which
processes have to be looked at, ends what the server leaves running, and notes down how it ended. All that it has in
common with the launcher is the simulation's folder. `python -m nrp_simserver.placement.job ORDER.json JOB` runs it,
with what the cluster calls the job.

A cluster may lose a node that goes on all the same, and run the job again elsewhere. So a run counts only for as long
as it has the claim on the simulation, a file in the folder. The first one takes it. A later run of the same job takes
it away, and says that what the simulation had reached is lost; the earlier one ends when it sees that, or that the
folder is gone. Of another job, which was submitted twice, nothing comes.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Final, Self

import numpy.random  # noqa: F401  a server seeds it
from pydantic import BaseModel, ValidationError

from nrp_simserver import processes
from nrp_simserver.placement.heartbeat import HeartbeatWatch
from nrp_simserver.placement.local import pooled_server
from nrp_simserver.resources.disk_use import DiskUse
from nrp_simserver.resources.limits import Limit, Limited, LimitWatch
from nrp_simserver.resources.process_table import ProcessTable
from nrp_simserver.server_end import ServerEnd
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder, read_note

ORDER: Final = "job_order.json"
CLAIM: Final = "job_claim.json"

LOOK_S: Final = 1.0
"""Between two looks at the claim, the limits and the launcher's heartbeat."""

OF_PROCESSES: Final = {Limited.MEMORY, Limited.CPU_TIME, Limited.PROCESSES}

NOT_COUNTED: Final = 3
"""The exit status of a run that had no claim on the simulation, or lost it."""

SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class JobOrder(BaseModel):
    """What a launcher hands to a job, in the simulation's folder. The job deletes it: it may hold a password.

    Attributes:
        setup: what the server needs.
        limits: those that are the job's to keep.
        stop_grace_s: how long the server may take to stop before it is killed.
        orphaned_s: how long it runs on without a launcher.
        heartbeat: the file that shows that the launcher lives.
    """

    setup: ServerSetup
    limits: dict[Limited, Limit]
    stop_grace_s: float
    orphaned_s: float
    heartbeat: Path

    def write(self, folder: SimulationFolder) -> Path:
        """Put this into the simulation's folder, for its owner's eyes only. Returns where it is."""
        path = folder.path / ORDER
        path.touch(0o600)
        path.write_text(self.model_dump_json())
        return path


class Claim(BaseModel):
    """Which run of which job has a simulation.

    Attributes:
        run: of this start of a process, a uuid.
        job: what the cluster calls the job.
        node: where it runs.
    """

    run: str
    job: str
    node: str

    def take_first(self, folder: SimulationFolder) -> bool:
        """Take the claim if nobody did. Returns whether it was taken, by one only, whatever machines they are on."""
        new = folder.path / f"{CLAIM}.{self.run}"
        new.write_text(self.model_dump_json())
        try:
            os.link(new, folder.path / CLAIM)  # atomic on network file systems, too
        except FileExistsError:
            return False
        finally:
            new.unlink()
        return True

    def take_over(self, folder: SimulationFolder) -> None:
        """Take the claim from whoever has it."""
        new = folder.path / f"{CLAIM}.{self.run}"
        new.write_text(self.model_dump_json())
        new.replace(folder.path / CLAIM)

    @classmethod
    def read(cls, folder: SimulationFolder) -> Self | None:
        """The claim on a simulation, None when nobody has it.

        Raises:
            OSError: the file system does not say.
        """
        try:
            return cls.model_validate_json(read_note(folder.path / CLAIM))
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EFBIG):  # an experiment has put something else in its place
                return None
            raise


class Job:
    """One run that has the claim on its simulation.

    Args:
        order: what to run.
        claim: that it has.
    """

    def __init__(self, order: JobOrder, claim: Claim) -> None:
        self._order = order
        self._claim = claim
        self._folder = SimulationFolder(order.setup.folder, order.setup.simulation_id)
        limits = {what: limit for what, limit in order.limits.items() if what in OF_PROCESSES}
        self._limits = LimitWatch(
            limits, self._folder, order.setup.incarnation, ProcessTable(), DiskUse(self._folder.path, 0), None
        )
        self._heartbeat = HeartbeatWatch(order.heartbeat)
        self._server = 0
        self._kill_at: float | None = None  # once the server is to end
        self._reason: str | None = None  # why this run has it end
        self._is_told = False  # from outside that it has to end
        self._counts = True

    def run(self) -> int:
        """Run the simulation server to its end, and note that down. Returns the exit status."""
        processes.adopt_orphans()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._server = self._fork()
        exit_code = self._await_end()
        own, incarnation = os.getpid(), self._order.setup.incarnation
        processes.end_all(lambda: processes.left_behind(own, self._server, incarnation, self._folder.path))
        if not self._counts or not self._has_claim():
            return NOT_COUNTED
        ServerEnd(
            pid=self._server,
            spawner=own,
            exit_code=exit_code,
            ended_at=time.time(),
            reason=self._reason,
            is_told=self._is_told,
        ).write(self._folder)
        return exit_code if exit_code >= 0 else 128 - exit_code

    def _fork(self) -> int:
        setup = self._order.setup.model_copy(update={"most_tasks_of_user": self._limits.most_tasks_of_user})
        own = os.getpid()
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(setup.model_dump_json().encode() + b"\n")
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                pooled_server.run(
                    setup.incarnation,
                    setup.bus_access,
                    own,
                    theirs,
                    credentials_follow=setup.credentials_in_folder,
                )
            theirs.close()
        return pid

    def _await_end(self) -> int:
        """Wait for the end of the server, see to it that it comes when it has to. Returns the exit code."""
        while True:
            come = signal.sigtimedwait(SIGNALS, LOOK_S)
            if come is not None and come.si_signo == signal.SIGCHLD:
                for pid, status in processes.ended_children():
                    if pid == self._server:
                        return os.waitstatus_to_exitcode(status)
            elif come is not None and come.si_signo in SIGNALS:
                self._is_told = True
                self._end_in_order()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                processes.send(self._server, signal.SIGKILL)
            self._look()

    def _look(self) -> None:
        if not self._has_claim():
            self._counts = False
            processes.send(self._server, signal.SIGKILL)
        if self._kill_at is not None:
            return
        own = os.getpid()
        if (excess := self._limits.process_excess(self._server, own)) is not None:
            self._reason = excess.reason
            if not excess.may_wait:
                self._limits.kill(self._server, own)
            self._end_in_order()
        elif (silent_s := self._heartbeat.silent_s) > self._order.orphaned_s:
            self._reason = f"No launcher came for {silent_s:.0f} s, and the simulation was ended"
            self._end_in_order()

    def _end_in_order(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._order.stop_grace_s
            processes.send(self._server, signal.SIGTERM)

    def _has_claim(self) -> bool:
        try:
            return Claim.read(self._folder) == self._claim
        except OSError:  # the file system is away, and says nothing of it
            return True


def main(order_file: Path, job: str) -> int:
    """Run a job, or find that it does not count. Returns the exit status."""
    folder = SimulationFolder(order_file.parent, 0)
    claim = Claim(run=uuid.uuid4().hex, job=job, node=socket.gethostname())
    try:
        is_first = claim.take_first(folder)
    except OSError as error:
        print(f"{claim.node} cannot use the simulation's folder: {error}", file=sys.stderr)
        return NOT_COUNTED
    if is_first:
        order = JobOrder.model_validate_json(order_file.read_bytes())
        order_file.unlink()
        return Job(order, claim).run()
    earlier = Claim.read(folder)
    if earlier is not None and earlier.job == job:
        claim.take_over(folder)
        reason = (
            f"The cluster lost {earlier.node}, which ran the simulation, and ran its job {job} again on {claim.node}"
        )
        end = ServerEnd(pid=0, spawner=os.getpid(), exit_code=NOT_COUNTED, ended_at=time.time(), reason=reason)
        end.write(folder)
    return NOT_COUNTED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
