"""A NEST Server of the engine's own: a child process, from its start until nothing of it is left."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nrp_simserver import processes
from nrp_simserver.cores.embedded.nest_server.connection import NestServerLost

PROGRAM = Path(__file__).with_name("serving.py")

STARTING_S = 60.0
"""How long it may take to import NEST and listen, in seconds: usually one, on a busy machine with a cold disk many."""

DYING_S = 1.0
"""How long a process whose connection broke may take to be gone, in seconds."""

ENDING_S = 1.0
"""How long it has to end when told to, in seconds; longer only takes one that is in the middle of a long step."""

LAST_WORDS_LINES = 15
"""How much of what it said last is told."""


class OwnNestServer:
    """A NEST Server for one engine, on a loopback port and with an access token that nobody else knows.

    It dies with this process; at once when it was started in the main thread, else after the step that it is at. What
    it writes goes to where this process writes.

    Args:
        folder: the experiment's folder, where it works and imports from.
        environment: environment variables that it has beyond this process's.
        port: where to listen; 0 for any port that is free.

    Attributes:
        port: where it listens.
        token: its access token.

    Raises:
        NestServerLost: it did not start; says why.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], port: int = 0) -> None:
        self.token = secrets.token_urlsafe()
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        announced, announce = os.pipe()
        try:
            # -P: files beside the program and in the experiment's folder must not be taken for modules.
            self._process = subprocess.Popen(
                [sys.executable, "-P", PROGRAM, str(parent), str(port), str(announce), folder],
                cwd=folder,
                env={
                    **os.environ,
                    **environment,
                    "PYNEST_QUIET": "1",
                    "NEST_SERVER_ACCESS_TOKEN": self.token,
                    "NEST_SERVER_ENABLE_EXEC_CALL": "true",
                    "NEST_SERVER_DISABLE_RESTRICTION": "true",
                },
                stdin=subprocess.PIPE,  # which ends with this process
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[announce],
                process_group=0,  # Ctrl-C on a terminal is for the simulation
                text=True,
                errors="replace",
            )
        except OSError as error:
            os.close(announced)
            raise NestServerLost(f"NEST Server cannot be started: {error.strerror}") from None
        finally:
            os.close(announce)
        self._forwarder = threading.Thread(target=self._forward, name="output of NEST Server", daemon=True)
        self._forwarder.start()
        try:
            self.port = self._await_port(announced)
        except BaseException:
            self.end()
            raise
        finally:
            os.close(announced)

    def _await_port(self, announced: int) -> int:
        deadline = time.monotonic() + STARTING_S
        told = b""
        while not told.endswith(b"\n"):
            ready, _, _ = select.select([announced], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise NestServerLost(f"NEST Server was not ready after {STARTING_S:g} s{self._told()}")
            said = os.read(announced, 16)
            if not said:
                raise NestServerLost(f"NEST Server did not start: it {self.fate()}")
            told += said
        return int(told)

    def fate(self) -> str:
        """What became of a server that does not answer, with its last words: "ended with status 1; ..."."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DYING_S)
        code = self._process.poll()
        if code is None:
            return "is still there"
        self._forwarder.join(DYING_S)
        return processes.describe_end(code) + self._told()

    def end(self) -> None:
        """End it and all that it has started: it itself in order, what is left then by force."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._forwarder.join(DYING_S)
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self._forwarder.is_alive():
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _forward(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last_words.append(line)
            with suppress(OSError, ValueError):
                sys.stdout.write(line)
                sys.stdout.flush()

    def _told(self) -> str:
        words = "".join(self._last_words.copy()).rstrip()
        return f"; its last words:\n{words}" if words else ""
