"""Programs that an experiment wants to run beside it: started before its engines, ended after them."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nrp_common.errors import ExperimentError
from nrp_simserver import processes
from nrp_simserver.bound_program import start_bound
from nrp_simserver.cores.configuration import ExternalProcess

log = logging.getLogger(__name__)

SETTLING_S = 0.2
"""A program that cannot run usually says so within this time."""

ENDING_S = 2.0
"""How long a program has to end after SIGTERM before it is killed."""


class ExternalProcesses:
    """The external processes of one simulation. They die with the thread that started them, however that ends."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, programs: Iterable[ExternalProcess], folder: Path) -> None:
        """Start all, in `folder`, their output going where this process's goes.

        Raises:
            ExperimentError: one cannot be started, or ends with an error at once; the others are still running.
        """
        for program in programs:
            command = [*shlex.split(program.command), *program.arguments]
            name = program.name or program.command
            try:
                started = start_bound(
                    command,
                    cwd=folder,
                    env={**os.environ, **program.environment_variables()},
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
            except OSError as error:
                raise ExperimentError(
                    f"External process '{name}' cannot be started: {shlex.join(command)}: {error.strerror}"
                ) from error
            self._running.append((name, started))
        deadline = time.monotonic() + SETTLING_S
        for _, started in self._running:
            with suppress(subprocess.TimeoutExpired):
                started.wait(max(0.0, deadline - time.monotonic()))
        self.check()

    def check(self) -> None:
        """Raise ExperimentError when one has ended with an error."""
        for name, process in self._running:
            if process.poll():
                ending = processes.describe_end(process.returncode)
                raise ExperimentError(f"External process '{name}' {ending}; what it said is in the log")

    def end(self) -> None:
        """End all, with what they started themselves: in order, then by force."""
        for _, process in self._running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + ENDING_S
        for name, process in self._running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("External process '%s' did not end when asked to, it is killed", name)
            _signal(process, signal.SIGKILL)
            process.wait()
        self._running.clear()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
