"""What Slurm is asked for: the options of a job and its script, from a launch and the site's settings."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from nrp_simserver.placement import batch, job
from nrp_simserver.placement.placement import ServerOrder
from nrp_simserver.resources.limits import Limited
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder


class JobNote(batch.JobNote):
    """What is noted down of a job of Slurm.

    Attributes:
        name: of the job, which no other one has.
        options: with which it is submitted.
        script: that it runs.
        id: its number, None until Slurm said it.
    """

    FILE = "slurm_job.json"

    name: str
    options: list[str]
    script: str
    id: int | None = None


def job_of(order: ServerOrder, order_file: Path, python: str, settings: LauncherSettings) -> JobNote:
    """The job that runs a simulation server.

    Args:
        order: the server.
        order_file: for the job, in the simulation's folder.
        python: the interpreter on the nodes.
        settings: the launcher's.
    """
    setup = order.setup
    name = f"nrp-{setup.simulation_id}-{setup.incarnation}"
    log = SimulationFolder(setup.folder, setup.simulation_id).log
    options = [
        *shlex.split(settings.slurm_options),
        *_resources(order, settings),
        f"--job-name={name}",
        f"--comment=NRP simulation {setup.simulation_id} of {order.launch.owner}",
        "--nodes=1",
        "--ntasks=1",
        "--no-requeue",
        "--export=ALL",
        f"--chdir={setup.folder}",
        f"--output={str(log).replace('%', '%%')}",  # errors go there, too
        "--open-mode=append",
    ]
    command = shlex.join([python, "-P", "-m", job.__name__, str(order_file)])
    return JobNote(name=name, options=options, script=f'#!/bin/sh\nexec {command} "$SLURM_JOB_ID"\n')


def _resources(order: ServerOrder, settings: LauncherSettings) -> list[str]:
    wishes = order.launch.wishes
    limit = order.limits.get(Limited.MEMORY)
    memory_mb = wishes.memory_mb or (math.ceil(limit.most) if limit is not None else settings.slurm_memory_mb)
    time_s = math.ceil(wishes.time_limit or settings.slurm_time_limit_s)
    asked = {
        "--partition": wishes.partition or settings.slurm_partition,
        "--account": wishes.account or settings.slurm_account,
        "--cpus-per-task": math.ceil(wishes.cores),
        "--mem": f"{memory_mb}M" if memory_mb else "",
        "--gres": f"gpu:{wishes.gpus}" if wishes.gpus else "",
        "--time": f"{time_s // 60}:{time_s % 60:02}" if time_s else "",
    }
    return [f"{option}={value}" for option, value in asked.items() if value]
