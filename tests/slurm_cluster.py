"""A Slurm cluster of the tests' own: a real controller, and three nodes that are all this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from tests.ports import free_ports
from tests.waiting import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

NODES = ("n1", "n2", "n3")

CONFIGURATION = """\
ClusterName=nrp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PriorityType=priority/basic
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
KillWait=2
OverTimeLimit=0
MessageTimeout=3
SlurmdTimeout=300
DefMemPerCPU=10
{nodes}
PartitionName=main Nodes=n[1-3] Default=YES MaxTime=1-0 State=UP
PartitionName=apart Nodes=n3 MaxTime=1-0 State=UP
"""

HARDWARE = "CPUs=11 RealMemory=4000"
"""Of each node, whatever this machine has."""


def why_not() -> str | None:
    """Why there can be no cluster here, None when there can."""
    missing = [program for program in PROGRAMS if _path_of(program) is None]
    return f"there is no {', '.join(missing)} (Debian: slurm-wlm, munge)" if missing else None


def _path_of(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


class SlurmCluster:
    """The cluster, not running yet.

    Args:
        folder: for its files.

    Attributes:
        variables: of the environment, with which Slurm's programs find it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._configuration = folder / "slurm.conf"
        self.variables = {"SLURM_CONF": str(self._configuration)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._fillers: list[int] = []
        host = socket.gethostname().partition(".")[0]
        controller, *ports = free_ports(1 + len(NODES))
        nodes = (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} Weight={weight} {HARDWARE}"
            for weight, (name, port) in enumerate(zip(NODES, ports, strict=True), 1)
        )
        for each in ("munge", "state", *(f"spool-{name}" for name in NODES)):
            (folder / each).mkdir(mode=0o755)
        self._configuration.write_text(
            CONFIGURATION.format(
                host=host, port=controller, user=getpass.getuser(), folder=folder, nodes="\n".join(nodes)
            )
        )

    # -- coming and going ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run, and return when all nodes take jobs."""
        munge = self._folder / "munge"
        key = munge / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._run(
            "munged", "--foreground", "--force", *(f"--{option}={munge / name}" for option, name in files.items())
        )
        wait_until((munge / "socket").exists)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(self._is_ready, 60)

    def start_controller(self) -> None:
        self._run("slurmctld", "-D", "-f", str(self._configuration))

    def start_node(self, node: str) -> None:
        self._run("slurmd", "-D", "-N", node, "-f", str(self._configuration), name=node)

    def stop_controller(self) -> None:
        """Have the controller go away; what it knows it finds again."""
        self._end("slurmctld", signal.SIGTERM)

    def lose_node(self, node: str) -> None:
        """Have Slurm lose a node: what runs there runs on."""
        self._end(node, signal.SIGKILL)
        self.control("update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def heal(self) -> None:
        """Everything runs."""
        if self._processes["slurmctld"].poll() is not None:
            self.start_controller()
        for node in NODES:
            if self._processes[node].poll() is not None:
                self.start_node(node)
        wait_until(self._is_ready, 60)

    def close(self) -> None:
        """End everything, jobs included."""
        if self._processes.get("slurmctld") is not None:
            with suppress(subprocess.CalledProcessError):
                self.call("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}")
                self.call("scancel", f"--user={getpass.getuser()}")
        for name in [*NODES, "slurmctld", "munged"]:
            if name in self._processes:
                self._end(name, signal.SIGTERM)
        for pid in self._steps():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._steps())

    def _run(self, program: str, *arguments: str, name: str = "") -> None:
        path = _path_of(program)
        assert path is not None
        with (self._folder / f"{name or program}.log").open("ab") as log:
            self._processes[name or program] = subprocess.Popen(
                [path, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.variables
            )

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._processes[name]
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _is_ready(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended: {(self._folder / f'{name}.log').read_text()[-2000:]}"
        with suppress(subprocess.CalledProcessError):
            states = self.call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
            return len(states) == len(NODES) and set(states) <= {"idle", "mixed", "allocated"}
        return False

    def _steps(self) -> list[int]:
        """What nodes have running for jobs: it outlives them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.name().startswith("slurmstepd") and process.environ().get("SLURM_CONF") == str(
                    self._configuration
                ):
                    found.append(process.pid)
        return found

    # -- what is in it -------------------------------------------------------------------------------------------------

    def call(self, program: str, *arguments: str) -> str:
        """What one of Slurm's programs prints."""
        return subprocess.run(
            [program, *arguments],
            env=os.environ | self.variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout

    def control(self, *arguments: str) -> str:
        return self.call("scontrol", *arguments)

    def states(self) -> dict[int, str]:
        """The states of all jobs, by their numbers."""
        lines = self.call("squeue", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return {int(number): state for number, state in map(str.split, lines)}

    def unfinished(self) -> list[int]:
        return [
            job for job, state in self.states().items() if state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
        ]

    def jobs_of(self, incarnation: str) -> list[int]:
        """The numbers of all jobs that were ever submitted for a server."""
        lines = self.call("squeue", "--noheader", "--states=all", "--format=%i %j").splitlines()
        return [int(number) for number, name in map(str.split, lines) if name.endswith(incarnation)]

    def running_of(self, data: Path) -> list[int]:
        """The numbers of the jobs that run for a launcher, whose data directory this is."""
        lines = self.call("squeue", "--noheader", "--states=RUNNING", "--format=%i %Z").splitlines()
        return [int(number) for number, folder in map(str.split, lines) if Path(folder).is_relative_to(data)]

    def node_of(self, job: int) -> str:
        return self.call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%N").strip()

    def fill(self) -> None:
        """Have something else take all cores that are free."""
        free = self.call("sinfo", "--noheader", "--partition=main", "--format=%C").split("/")[1]
        said = self.call("sbatch", "--parsable", f"--ntasks={free}", "--output=/dev/null", "--wrap=sleep 600")
        job = int(said.partition(";")[0])
        self._fillers.append(job)
        wait_until(lambda: self.states()[job] == "RUNNING", 20)

    def clear(self) -> None:
        """Take that away."""
        while self._fillers:
            self.cancel(self._fillers.pop())

    def cancel(self, job: int) -> None:
        self.call("scancel", str(job))
