"""Programs that an experiment wants to run beside it: started before its engines, ended after them."""

from __future__ import annotations

import ctypes
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
from nrp_simserver.cores.configuration import ExternalProcess

log = logging.getLogger(__name__)

SETTLING_S = 0.2
"""A program that cannot run usually says so within this time."""

ENDING_S = 2.0
"""How long a program has to end after SIGTERM before it is killed."""

_LIBC = ctypes.CDLL(None)  # loaded here, since between fork and exec nothing may be loaded
_PR_SET_PDEATHSIG = 1


class ExternalProcesses:
    """The external processes of one simulation. They die with the thread that started them, however that ends."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, processes: Iterable[ExternalProcess], folder: Path) -> None:
        """Start all, in `folder`, their output going where this process's goes.

        Raises:
            ExperimentError: one cannot be started, or ends with an error at once; the others are still running.
        """
        for process in processes:
            command = [*shlex.split(process.command), *process.arguments]
            name = process.name or process.command
            try:
                started = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, **process.environment_variables()},
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509  one system call, loaded before
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
                raise ExperimentError(f"External process '{name}' {_ending_of(process)}; what it said is in the log")

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


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _ending_of(process: subprocess.Popen[bytes]) -> str:
    if process.returncode < 0:
        return f"was ended by {signal.Signals(-process.returncode).name}"
    return f"ended with status {process.returncode}"
