"""The methods of nrp_client's `NrpCore`, over any core: a run in a thread, stopped from another one, is theirs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from nrp_common.errors import CallNotAllowed, ConfigurationError
from nrp_simserver.cores import NrpCore, number_of_iterations

if TYPE_CHECKING:
    from google.protobuf.message import Message

AnswerT = TypeVar("AnswerT")

_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


class CoreWithTime(NrpCore, Protocol):
    """A core that knows how far it is."""

    @property
    def time_ns(self) -> int:
        """The simulated time in nanoseconds that all calls of `run_loop` together have come to."""


class NrpCoreClient:
    """Drives the core that a subclass makes. Its methods may be called from several threads."""

    _core: CoreWithTime

    def __init__(self) -> None:
        self._calls = threading.Lock()  # the core takes one call at a time
        self._stop_asked = threading.Event()
        self._is_closed = False

    def initialize(self) -> list[Any]:
        """Start the engines and load the functions; returns the observations.

        Raises:
            RuntimeError: an engine or a function failed; only `shutdown` is left.
            ConnectionError: the state does not allow it.
            ChildProcessError: it was shut down.
        """
        return self._call(self._core.initialize)

    def run_loop(
        self, num_iterations: int = 1, run_async: bool = False, response: list[Any] | None = None
    ) -> tuple[bool, list[Any]] | threading.Thread:
        """Advance by `num_iterations` smallest timesteps.

        Args:
            num_iterations: how many.
            run_async: do it in a thread, and return that at once.
            response: with `run_async`, what the call would have returned is appended to it.

        Returns:
            Whether the status function reported done, and the trajectory gathered since it last did.

        Raises:
            As `initialize`; and ValueError or TypeError, when `num_iterations` is less than one or no integer.
        """
        number = number_of_iterations(num_iterations)
        return self._run(lambda: self._steps(number), run_async, response)

    def run_until_timeout(
        self, run_async: bool = False, response: list[Any] | None = None
    ) -> tuple[bool, bool, list[Any]] | threading.Thread:
        """Advance until the status function reports done, the timeout is reached, or `stop` is called.

        Returns:
            (done, timed out, trajectory), or a thread as `run_loop`.

        Raises:
            As `initialize`.
        """
        return self._run(self._steps_until_timeout, run_async, response)

    def stop(self) -> None:
        """End a `run_loop` or `run_until_timeout` that runs in another thread, after the step that it is at."""
        self._stop_asked.set()
        with self._calls:
            self._stop_asked.clear()

    def reset(self) -> list[Any]:
        """Bring the co-simulation back to t = 0; returns the observations. Raises as `initialize`."""
        return self._call(self._core.reset)

    def shutdown(self) -> None:
        """End all engines. Afterwards nothing else is possible. Raises RuntimeError when an engine failed in it."""
        self.stop()
        self._is_closed = True
        with self._calls:
            self._core.shutdown()

    def current_state(self) -> str:
        """One of Created, Initialized, Running, Stopped, Failed."""
        return self._core.current_state()

    def set_json_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        """Hand `payload` (JSON values) to an engine with the next `run_loop` or `reset`."""
        self._core.set_json_datapack(datapack_name, engine_name, payload)

    def set_proto_datapack(self, datapack_name: str, engine_name: str, payload: Message) -> None:
        """Hand a protobuf message to an engine with the next `run_loop` or `reset`."""
        self._core.set_proto_datapack(datapack_name, engine_name, payload)

    # -- how a call is made --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Let no other call in until this one releases `_calls`."""
        if self._is_closed:
            raise ChildProcessError("The co-simulation was shut down")
        if not self._calls.acquire(blocking=False):
            raise CallNotAllowed("Can't process request: the state is Running")

    def _call(self, call: Callable[[], AnswerT]) -> AnswerT:
        self._begin()
        try:
            return call()
        finally:
            self._calls.release()

    def _run(
        self, call: Callable[[], AnswerT], run_async: bool, response: list[Any] | None
    ) -> AnswerT | threading.Thread:
        if not run_async:
            return self._call(call)
        self._begin()
        state = self._core.current_state()
        if state not in ("Initialized", "Stopped"):
            self._calls.release()
            raise CallNotAllowed(f"Can't process request: the state is {state}")

        def answer() -> None:
            try:
                answered = call()
            finally:
                self._calls.release()
            if response is not None:
                response.append(answered)

        thread = threading.Thread(target=answer, name="nrp-core", daemon=True)
        thread.start()
        return thread

    def _steps(self, num_iterations: int) -> tuple[bool, list[Any]]:
        any_done, gathered = False, []
        while num_iterations:
            steps = min(num_iterations, self._core.steps_at_once)
            done, trajectory = self._core.run_loop(steps)
            any_done |= done
            gathered += trajectory
            num_iterations -= steps
            if self._stop_asked.is_set():
                break
        if any_done:
            gathered += self._gathered()
        return any_done, gathered

    def _steps_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        while (left := self._steps_left()) is None or left > 1:
            steps = self._core.steps_at_once
            done, trajectory = self._core.run_loop(steps if left is None else min(steps, left - 1))
            if done:
                return True, False, trajectory
            if self._stop_asked.is_set():
                return False, False, []
        return self._core.run_until_timeout()  # takes the last step, and hands out what was gathered

    def _gathered(self) -> list[Any]:
        """What a core gathered in the steps after one that was done; those that have no such method keep it."""
        gathered: list[Any] = getattr(self._core, "gathered", list)()
        return gathered

    def _steps_left(self) -> int | None:
        """How many steps it takes to reach the timeout; None when there is none."""
        core = self._core
        return max(0, -((core.time_ns - core.timeout_ns) // core.timestep_ns)) if core.timeout_ns else None


def overrides_in(args: str) -> dict[str, Any]:
    """The overrides in a string of NRPCoreSim's options: path -> value.

    Raises:
        ConfigurationError: one of them is no `path=value`.
    """
    words = words_in(args)
    overrides: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if word in ("-o", "--overwrite"):
            if not words:
                raise ConfigurationError(f"{word} in {args!r} is not followed by path=value")
            path, equals, value = words.pop(0).partition("=")
            if not equals:
                raise ConfigurationError(f"{path!r} in {args!r} is no path=value")
            overrides[path] = _value(value)
    return overrides


def words_in(args: str) -> list[str]:
    """Words as a shell would split them, but with their quotes, which belong to JSON."""
    if '"' in _WORD.sub("", args):
        raise ConfigurationError(f"a quote in {args!r} is not closed")
    return _WORD.findall(args)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a shell takes quotes away that NRPCoreSim then does without
        return text
