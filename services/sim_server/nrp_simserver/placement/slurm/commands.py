"""Slurm as its own programs show it: sbatch, squeue, scancel, scontrol.

They are what every site has, whatever version of Slurm and however its users are let in. No accounting database is
needed. What they print is for people, and versions and sites differ: what is not understood is passed over or told as
it is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from nrp_common.errors import NRPError, SettingsError
from nrp_simserver.placement.batch import NotNow

ANSWERED_WITHIN_S: Final = 30.0
"""How long a program may take. They ask a busy controller again for longer than that by themselves."""

PROGRAMS: Final = ("sbatch", "squeue", "scancel", "scontrol")

_OWN_FORMATS: Final = re.compile(r"^(SQUEUE_|SCANCEL_|SLURM_(?!CONF$|CLUSTERS$))")
"""Variables that change what these programs do: of a job that the launcher itself is in, or a person's taste."""

_FORMAT: Final = "%i|%T|%P|%Q|%N|%r|%j"

_REFUSED: Final = re.compile(
    r"Batch job submission failed|invalid|unrecognized option|requires an argument|ambiguous|cli_filter|not permitted",
    re.IGNORECASE,
)
_PASSES: Final = re.compile(
    r"contact slurm controller|connect|timed out|time-?out|temporarily|try(ing)? again|Zero Bytes|communication"
    r"|send/recv|standby|munge|authentication|credential|Unexpected message|resolve|not responding|shutting down"
    r"|fetch_config|Resource temporarily|Slurm is busy|Transport endpoint",
    re.IGNORECASE,
)
"""What Slurm says when it is away, busy, or being restarted. Whatever else comes with it, it is worth another try."""

_NOT_HEARD: Final = re.compile(
    r"Unable to contact slurm controller|connect failure|configuration source|munge|Connection refused", re.IGNORECASE
)
"""What its programs say when they did not get through at all."""


class SlurmUnavailable(NotNow):
    """Slurm does not answer."""


class SlurmUnreachable(SlurmUnavailable):
    """Slurm was not reached: it has not heard what it was to do."""


class SubmissionRefused(NRPError):
    """Slurm does not take a job; the message is what it says."""


@dataclass(frozen=True)
class SlurmJob:
    """A job as `squeue` lists it.

    Attributes:
        id: its number; for a part of an array that of the array.
        name: its name.
        state: in capitals, such as `PENDING`.
        reason: why it waits, or how it ended; "None" for nothing.
        partition: where it runs, or may: names with commas between.
        priority: the higher, the sooner.
        nodes: that it has, "" when it has none.
    """

    id: int
    name: str
    state: str
    reason: str
    partition: str
    priority: int
    nodes: str


class Slurm:
    """The cluster whose programs are on the PATH.

    Args:
        environment: in which they are called, and which jobs get.

    Raises:
        SettingsError: one of the programs is missing.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {name: value for name, value in environment.items() if not _OWN_FORMATS.match(name)}
        missing = [program for program in PROGRAMS if shutil.which(program, path=environment.get("PATH")) is None]
        if missing:
            named = ", ".join(missing)
            raise SettingsError(
                f"NRP_PLACEMENT=slurm needs Slurm's programs on the PATH of the launcher: no {named} there"
            )

    def submit(self, options: Sequence[str], script: str) -> int:
        """Submit a batch job. Returns its number.

        Raises:
            SubmissionRefused: Slurm does not take it.
            SlurmUnreachable: it was not asked.
            SlurmUnavailable: it does not answer. It may have taken the job all the same.
        """
        done = self._run("sbatch", "--parsable", *options, text=script)
        if done.returncode == 0:
            for line in reversed(done.stdout.splitlines()):
                if (number := re.fullmatch(r"\s*(\d+)(;\S*)?\s*", line)) is not None:
                    return int(number[1])
            raise SlurmUnavailable(f"sbatch did not say which job it submitted: {_words(done)}")
        if _REFUSED.search(done.stderr) and not _PASSES.search(done.stderr):
            raise SubmissionRefused(_words(done))
        raise (SlurmUnreachable if _NOT_HEARD.search(done.stderr) else SlurmUnavailable)(_words(done))

    def jobs(self) -> list[SlurmJob]:
        """All jobs of the cluster that Slurm shows this user, those included that ended some minutes ago.

        Raises:
            SlurmUnavailable: it does not answer.
        """
        done = self._asked("squeue", "--noheader", "--states=all", f"--format={_FORMAT}")
        return [job for line in done.stdout.splitlines() if (job := job_in(line)) is not None]

    def cancel(self, job: int, *options: str) -> None:
        """Cancel a job, or as the options of `scancel` say. Nothing happens when it has ended.

        Raises:
            SlurmUnavailable: it does not answer.
        """
        with suppress(_Unknown):
            self._asked("scancel", *options, str(job))

    def hosts(self, within_s: float) -> set[str]:
        """The names of the machines that are nodes.

        Raises:
            SlurmUnavailable: it does not answer within so many seconds.
        """
        done = self._asked("scontrol", "--oneliner", "show", "nodes", within_s=within_s)
        return set(re.findall(r"\bNodeHostName=(\S+)", done.stdout))

    def _asked(self, program: str, *arguments: str, within_s: float | None = None) -> subprocess.CompletedProcess[str]:
        done = self._run(program, *arguments, within_s=within_s)
        if re.search(r"invalid job id|already complet", done.stderr, re.IGNORECASE):
            raise _Unknown(_words(done))
        if done.returncode != 0:
            raise SlurmUnavailable(_words(done))
        return done

    def _run(
        self, program: str, *arguments: str, text: str = "", within_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        within_s = within_s or ANSWERED_WITHIN_S
        try:
            process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise SlurmUnavailable(f"{program} cannot be run: {error}") from error
        with process:
            try:
                stdout, stderr = process.communicate(text, within_s)
            except subprocess.TimeoutExpired as error:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever a wrapper of the site's has started
                raise SlurmUnavailable(f"{program} did not answer in {within_s:g} s") from error
        return subprocess.CompletedProcess([program, *arguments], process.returncode, stdout, stderr)


class _Unknown(SlurmUnavailable):
    """There is no such job any more."""


def job_in(line: str) -> SlurmJob | None:
    """The job in a line of `squeue`, None when it holds none: names may hold anything, also an end of line."""
    parts = line.split("|", 6)
    if len(parts) < 7 or (number := re.match(r"\s*(\d+)", parts[0])) is None:
        return None
    _, state, partition, priority, nodes, reason, name = parts
    return SlurmJob(
        id=int(number[1]),
        name=name.strip(),
        state=state.strip(),
        reason=reason.strip(),
        partition=partition.strip(),
        priority=int(priority) if priority.strip().isdecimal() else 0,
        nodes=nodes.strip(),
    )


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said, in a line; its exit code when it said nothing."""
    said = " / ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
    return said or f"{done.args[0]} ended with exit code {done.returncode} and said nothing"
