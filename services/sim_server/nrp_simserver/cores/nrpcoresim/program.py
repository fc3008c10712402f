"""The program NRPCoreSim as a child process: where it listens, whether it lives, what it said last, how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from nrp_common.errors import EngineUnavailable
from nrp_simserver import processes

LOG: Final = ".console_output.log"
"""The file in the experiment's folder that has what NRPCoreSim and its engines write; its name is nrp_client's."""

MARK: Final = "NRP_NRPCORESIM"
"""The environment variable that tells by which start of an NRPCoreSim a process was started."""

ENDING_S: Final = 1.0
"""How long it has to end after SIGTERM, in seconds; its engines have been shut down before."""

DYING_S: Final = 1.0
"""How long after its connection broke a program that dies may take to be gone, in seconds."""

LAST_WORDS_LINES: Final = 15
LAST_WORDS_BYTES: Final = 3000
"""How much of the end of its log is told."""


def find_program(name: str) -> str | None:
    """The path of a program, by its path or its name on the PATH; None when there is none."""
    return shutil.which(name)


class Program:
    """An NRPCoreSim that serves one experiment, from its start until nothing of it runs any more.

    It dies with this process when it was started in the main thread: the kernel looks at the thread that did it.

    Args:
        name: the program, a name on the PATH or a path.
        folder: the experiment's folder, absolute.
        config_file: the configuration, relative to `folder`.
        options: further options, such as overrides.

    Attributes:
        address: where it is told to listen, `host:port`.

    Raises:
        EngineUnavailable: there is no such program, or it cannot be started.
    """

    def __init__(self, name: str, folder: Path, config_file: str, options: Sequence[str] = ()) -> None:
        path = find_program(name)
        if path is None:
            raise EngineUnavailable(f"the original nrp-core is needed, and there is no program {name}")
        self.address = _free_address()
        self._log = folder / LOG
        self._mark = uuid.uuid4().hex
        server = ["-m", "server", "--server_address", self.address, "--logoutput=all", f"--logfilename={LOG}"]
        in_main_thread = threading.current_thread() is threading.main_thread()
        with self._log.open("wb"):  # what an earlier run said is not this one's
            pass
        with self._log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    [path, "-c", config_file, *server, *options],
                    cwd=folder,
                    env={**os.environ, MARK: self._mark},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=partial(processes.die_with_parent, os.getpid()) if in_main_thread else None,  # noqa: PLW1509  one system call
                )
            except OSError as error:
                raise EngineUnavailable(f"{path} cannot be started: {error.strerror}") from error

    @property
    def has_ended(self) -> bool:
        """Whether the program itself has ended; its engines may still be there."""
        return self._process.poll() is not None

    def fate(self) -> str:
        """What became of a program that does not answer, with the last lines of its log: "ended with status 1; ..."."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_S)
        return f"{self._ending()}{self.last_words()}"

    def last_words(self) -> str:
        """The end of its log, introduced; "" when it is empty."""
        try:
            end = self._log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace")
        except OSError:  # an engine may have deleted it
            return ""
        lines = end.strip().splitlines()[-LAST_WORDS_LINES:]
        return f"; the end of {LOG}:\n" + "\n".join(lines) if lines else ""

    def end(self) -> None:
        """End it and all that it has started: it itself in order, what is left then by force."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)
        processes.end_all(lambda: processes.marked([self._mark], MARK))
        self._process.wait()

    def _ending(self) -> str:
        code = self._process.poll()
        if code is None:
            return "does not answer any more"
        return processes.describe_end(code)


def _free_address() -> str:
    """An address that nobody else on this machine will listen on.

    Each process uses a loopback address of its own, made of its id: a port that is free now cannot be taken by another
    simulation until NRPCoreSim gets to listen on it, seconds later. It would share the port with it, and say nothing.
    """
    pid = os.getpid()
    host = f"127.{pid >> 16}.{pid >> 8 & 255}.{pid & 255}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
