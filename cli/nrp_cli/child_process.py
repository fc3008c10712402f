"""A service run as a child process that cannot outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ChildProcess:
    """A service in a session of its own, its output in a file.

    A Ctrl-C on the terminal does not reach it, so that its parent can end the services in order; when the parent dies
    without that, the kernel tells the service (SIGTERM). Start it from the main thread: the kernel watches the thread.

    Args:
        name: of the service, for people.
        command: program and arguments.
        log: where stdout and stderr go, appended.
        environment: on top of this process's own.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        self.name = name
        self.log = log
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died in between
                os._exit(1)

        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  before any thread is started
            )

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def obituary(self) -> str:
        """How it ended and what it said last."""
        code = self._process.poll()
        ending = "runs" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            ending = f"was ended by {signal.Signals(-code).name}"
        return f"The {self.name} {ending}. Its last words ({self.log}):\n{self.last_words()}"

    def last_words(self, lines: int = 15) -> str:
        """The end of its output."""
        try:
            text = self.log.read_bytes()[-10_000:].decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if not self.has_ended:
            self._process.terminate()

    def end(self, grace_s: float) -> None:
        """Ask it to end, wait `grace_s` seconds, then kill it and all in its session."""
        self.ask_to_end()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
