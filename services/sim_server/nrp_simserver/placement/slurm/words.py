"""The words for how a job of Slurm ended."""

from __future__ import annotations

import re
from typing import Final

from nrp_simserver.placement.slurm.commands import SlurmJob

WAITING: Final = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ENDED_BY_ITSELF: Final = {"COMPLETED", "FAILED"}

_ENDS: Final = {
    "TIMEOUT": "ended the simulation, as its job took longer than its time limit",
    "DEADLINE": "ended the simulation, as its job reached its deadline",
    "OUT_OF_MEMORY": "ended the simulation, as its job used more memory than it may",
    "NODE_FAIL": "lost the node that ran the simulation",
    "BOOT_FAIL": "could not boot a node for the simulation",
    "CANCELLED": "says that the job of the simulation was cancelled, and not by its launcher",
    "PREEMPTED": "ended the simulation, as its node was needed for another job",
    "REVOKED": "says that the job of the simulation was revoked",
}

ENDED: Final = {*ENDED_BY_ITSELF, *_ENDS}
"""The states of jobs that run no more and will not again. In all others but `WAITING` they have a node."""

_NOT_BEGUN: Final = ("JobLaunchFailure", "RaisedSignal:53")
"""How Slurm says that a node could not begin a job, as when it cannot open the file for its output."""


def end_of(job: SlurmJob, log: str) -> str:
    """How a job ended that says nothing of it itself, in a sentence; `log` is where its output belongs."""
    where = f"job {job.id} on {job.nodes}" if job.nodes else f"job {job.id}"
    if job.state in _ENDS:
        return f"Slurm {_ENDS[job.state]} ({job.state}, {where})"
    if job.reason.startswith(_NOT_BEGUN):
        return (
            f"The node could not begin the simulation (Slurm's {where}: {job.reason}), most likely as it cannot write"
            f" to {log}: NRP_DATA_DIRECTORY has to be on a file system that all nodes share, at the same path"
        )
    return f"The simulation server was not heard of any more: Slurm's {where} is {job.state}{_because(job.reason)}"


def why_waiting(job: SlurmJob) -> str:
    """Why a job waits."""
    return f"{_unbracketed(job.reason) or job.state}, job {job.id}"


def _because(reason: str) -> str:
    words = _unbracketed(reason)
    return f" ({words})" if words else ""


def _unbracketed(reason: str) -> str:
    """A reason without what Slurm puts around it; "" when it gives none."""
    words = re.sub(r"^\((.*)\)$", r"\1", reason)
    return "" if words == "None" else words
