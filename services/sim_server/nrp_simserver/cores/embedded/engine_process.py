"""A process of an engine, as the simulation's process handles it: started, asked, watched, ended."""

from __future__ import annotations

import builtins
import logging
import marshal
import os
import re
import select
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Literal, TextIO

from nrp_common.errors import EngineFailed
from nrp_simserver import processes
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.engine_host import WHERE_IT_IS, Answer, Ends, Fault, Request, host
from nrp_simserver.cores.error_place import brought_here

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a process that does not answer is looked after.

One that dies is noticed at once, unless a process that it has started keeps its end of the connection open.
"""

DYING_S = 1.0
"""How long a process may take to be gone once it has closed the connection or has been told to go."""

TELLING_S = 0.3
"""How long a process that is late has to tell where it is."""

LAST_WORDS_LINES = 10

FAULTS_BYTES = 2**16
"""Holds the innermost hundred calls of a stack, which are all that faulthandler writes."""

_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in ', re.MULTILINE)
"""A line of what faulthandler writes, the innermost call first."""


class EngineProcess:
    """The process of one engine, from its start until `end`.

    It dies with this process; at once when it was started in the main thread, else after the step that it is at.

    Args:
        engine: as it was made; it is initialised in its process only.
        timeout_ns: how long it may take to carry out a request, 0 for any time.

    Raises:
        EngineFailed: no process can be started.
    """

    def __init__(self, engine: Engine[Any], timeout_ns: int) -> None:
        self._engine = engine
        self._timeout_s = timeout_ns * 1e-9
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self._faults = os.memfd_create("faults")
        self._requests, far_end = Pipe()
        output, far_output = os.pipe()
        errors, far_errors = os.pipe()
        in_main_thread = threading.current_thread() is threading.main_thread()
        ends = Ends(far_end, far_output, far_errors, self._faults, parent=os.getpid() if in_main_thread else 0)
        try:
            self.pid = _fork(engine, ends)
        except OSError as error:
            raise EngineFailed(f"engine {engine.name!r}: no process can be started for it: {error.strerror}") from error
        finally:
            far_end.close()
            os.close(far_output)
            os.close(far_errors)
        self._answers = select.poll()
        self._answers.register(self._requests, select.POLLIN)
        self._forwarders = [
            threading.Thread(target=self._forward, args=(source, stream), name=f"output of {engine.name}", daemon=True)
            for source, stream in ((output, "stdout"), (errors, "stderr"))
        ]
        for forwarder in self._forwarders:
            forwarder.start()
        self._asked: str | None = "initialize"
        self._asked_at = time.monotonic()
        self._is_initialised = False
        self._is_unusable = False  # an answer was not read to its end, or the process is not to be waited for

    @property
    def is_busy(self) -> bool:
        """Whether a request was not answered yet."""
        return self._asked is not None

    def ask(self, request: Request) -> None:
        """Have a request carried out; the one before has to be answered.

        Raises:
            EngineFailed: the process has ended.
        """
        self._asked, self._asked_at = request.call, time.monotonic()
        plain: Any = tuple(request)  # marshal takes no subclasses
        try:
            self._requests.send_bytes(marshal.dumps(plain))
        except OSError:
            raise self._dead() from None
        except BaseException:  # somebody interrupted the simulation
            self._is_unusable = True
            raise

    def answer(self) -> dict[str, Any]:
        """Wait for the answer to the request: the datapacks that it wanted, packed, by name.

        Raises:
            EngineFailed: the engine failed, its process has ended, or it took longer than the engine may.
        """
        while not self._answers.poll(self._patience_ms()):
            if self._has_ended():
                raise self._dead()
            if self._timeout_s and self._time_left() <= 0:
                raise self._late()
        try:
            answer: Answer = marshal.loads(self._requests.recv_bytes())  # noqa: S302  both ends are this program
        except (EOFError, OSError):
            raise self._dead() from None
        except BaseException:  # somebody interrupted the simulation
            self._is_unusable = True
            raise
        fault, datapacks = answer
        self._is_initialised |= fault is None
        self._asked = None
        if fault is not None:
            raise failure(Fault(*fault))
        return dict(datapacks)

    def end(self, patience_s: float) -> None:
        """Have the engine shut down, then end the process and all that it has started.

        Args:
            patience_s: how many seconds a step that is under way has to end; else the process is ended in the middle.

        Raises:
            EngineFailed: the engine failed, in that step or in shutting down; nothing is left all the same.
        """
        failed: EngineFailed | None = None
        if self.is_busy and not self._is_unusable:
            if self._is_initialised and self._answers.poll(patience_s * 1000):
                try:
                    self.answer()
                except EngineFailed as error:
                    failed = error
            else:
                logger.warning("engine %s: its process is ended in the middle of %s", self._engine.name, self._asked)
                self._is_unusable = True
        try:
            if self._is_initialised and not self._is_unusable:
                self.ask(Request("shutdown"))
                self.answer()
        finally:
            self._leave_nothing()
        if failed is not None:
            raise failed

    def _leave_nothing(self) -> None:
        self._requests.close()
        if self._is_unusable or not self._ends_within(DYING_S):
            self._kill()
        with suppress(OSError):  # what it has started itself
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        for forwarder in self._forwarders:
            forwarder.join(DYING_S)
        os.close(self._faults)

    # -- how long to wait ----------------------------------------------------------------------------------------------

    def _time_left(self) -> float:
        return self._asked_at + self._timeout_s - time.monotonic()

    def _patience_ms(self) -> float:
        return 1000 * (min(LOOK_S, max(0.0, self._time_left())) if self._timeout_s else LOOK_S)

    def _late(self) -> EngineFailed:
        """The error of a process that takes too long, which is ended."""
        self._is_unusable = True
        what = f"engine {self._engine.name!r} took longer than EngineCommandTimeout, {self._timeout_s:g} s, for"
        os.kill(self.pid, WHERE_IT_IS)
        deadline = time.monotonic() + TELLING_S
        while not (place := self._told_place()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._kill()
        if not place:
            return EngineFailed(f"{what} {self._asked}")
        file, line = place
        return EngineFailed(f"{what} {self._asked}; it was in {file} (Line {line})", file=file, line=line)

    # -- how it ends ---------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:  # somebody who waits for all children has taken note of it
            return True

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while not self._has_ended():
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return True

    def _dead(self) -> EngineFailed:
        """The error of a process that has ended, or has closed the connection and is ended: with its last words."""
        self._is_unusable = True
        how = self._how_it_ended() if self._ends_within(DYING_S) else "closed its connection to the simulation"
        for forwarder in self._forwarders:
            forwarder.join(DYING_S)
        place = self._told_place()
        file, line = place or ("", 0)
        where = f" in {file} (Line {line})" if place else ""
        words = "".join(self._last_words.copy()).rstrip()
        return EngineFailed(
            f"engine {self._engine.name!r}: its process {how} during {self._asked}{where}"
            + (f"; its last words:\n{words}" if words else ""),
            file=file,
            line=line,
        )

    def _how_it_ended(self) -> str:
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            if ended is not None:
                is_exit = ended.si_code == os.CLD_EXITED
                return processes.describe_end(ended.si_status if is_exit else -ended.si_status)
        return "has ended"

    def _told_place(self) -> tuple[str, int] | None:
        """Where in the experiment's own files the process was when it crashed, or was asked."""
        told = os.pread(self._faults, FAULTS_BYTES, 0).decode(errors="replace")
        for frame in _FRAME.finditer(told):
            file = Path(frame["file"])
            if file.is_relative_to(self._engine.folder):
                return file.relative_to(self._engine.folder).as_posix(), int(frame["line"])
        return None

    # -- what it says --------------------------------------------------------------------------------------------------

    def _forward(self, source: int, stream: Literal["stdout", "stderr"]) -> None:
        """Write what the process writes to where this process writes, and remember the last of it."""
        for line in _lines(source):
            self._last_words.append(line)
            target: TextIO = getattr(sys, stream)
            with suppress(OSError, ValueError):
                target.write(line)
                target.flush()


def _lines(source: int) -> Iterator[str]:
    with open(source, encoding="utf-8", errors="replace", newline="\n") as lines:
        yield from lines


def _fork(engine: Engine[Any], ends: Ends) -> int:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that hold locks; what the process goes on to do needs none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        host(engine, ends)
    return pid


def failure(fault: Fault) -> EngineFailed:
    """The error of an engine that runs elsewhere, as if it had been raised in this process."""
    failed = EngineFailed(fault.message, file=fault.file, line=fault.line)
    if fault.kind:
        kind: Any = type(fault.kind, (getattr(builtins, fault.base),), {"__module__": "builtins"})
        raised: Exception = kind(fault.words)
        raised.add_note(f"\nIn the engine's own process:\n{fault.traceback.rstrip()}")
        failed.__cause__ = brought_here(raised, fault.file, fault.line, fault.text, fault.offset)
    return failed
