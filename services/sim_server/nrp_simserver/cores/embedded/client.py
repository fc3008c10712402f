"""`NrpCore` as nrp_client has it, over the embedded core: a master script for nrp_client runs with one import changed.

from nrp_simserver.cores.embedded import NrpCore

nrp = NrpCore("localhost:50051", experiment_folder="my_experiment")
nrp.initialize()
done, trajectory = nrp.run_loop(100)
nrp.shutdown()
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nrp_common.errors import CallNotAllowed, ConfigurationError
from nrp_simserver.cores import BrokerConnector, DataPublisher, EngineProcesses, number_of_iterations
from nrp_simserver.cores.configuration import DEFAULT_FILE, load_configuration
from nrp_simserver.cores.embedded.core import EmbeddedCore

if TYPE_CHECKING:
    from google.protobuf.message import Message

AnswerT = TypeVar("AnswerT")

_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


class NrpCore:
    """Runs one experiment in this process.

    Args:
        address: where nrp_client would have its server; of no meaning here.
        experiment_folder: the experiment's folder, the working directory when empty.
        config_file: its configuration, relative to that.
        args: overrides of the configuration, as NRPCoreSim takes them: `-o SimulationTimeout=5
            -o EngineConfigs.EngineName:camera.MQTTBroker="host:1883"`. Other options are of no meaning here.
        log_output: of no meaning here: engines write to this process's output.
        server_timeout: of no meaning here: there is no server to wait for.
        publisher: publishes the data that a data transfer engine streams; without one nothing is streamed.
        engine_processes: "all" to have engines run in processes of their own, also those that need none.
        connect: connects the MQTT nodes of a computational graph; without one there can be none.

    Raises:
        ConfigurationError: the configuration, or an override of it, is missing or wrong.
        EngineUnavailable: it has an engine that this core cannot run.
    """

    def __init__(
        self,
        address: str = "",  # noqa: ARG002  nrp_client's signature
        experiment_folder: str | Path = "",
        config_file: str = DEFAULT_FILE,
        args: str = "",
        log_output: str | None = None,  # noqa: ARG002
        server_timeout: float = 10,  # noqa: ARG002
        *,
        publisher: DataPublisher | None = None,
        engine_processes: EngineProcesses = "needed",
        connect: BrokerConnector | None = None,
    ) -> None:
        folder = Path(experiment_folder or ".").resolve()
        configuration = load_configuration(folder, config_file, overrides_in(args))
        self._stop_asked = threading.Event()
        self._core = EmbeddedCore(
            folder,
            configuration=configuration,
            publisher=publisher,
            engine_processes=engine_processes,
            connect=connect,
            rest=self._stop_asked.wait,
        )
        self._calls = threading.Lock()  # the core takes one call at a time
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
        for _ in range(num_iterations):
            done, trajectory = self._core.run_loop(1)
            any_done |= done
            gathered += trajectory
            if self._stop_asked.is_set():
                break
        return any_done, gathered + (self._core.gathered() if any_done else [])

    def _steps_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        core = self._core
        while not self._stop_asked.is_set() and (not core.timeout_ns or core.time_ns < core.timeout_ns):
            done, trajectory = core.run_loop(1)
            if done:
                return True, bool(core.timeout_ns) and core.time_ns >= core.timeout_ns, trajectory
        if not core.timeout_ns or core.time_ns < core.timeout_ns:
            return False, False, []
        return core.run_until_timeout()  # takes no step any more, hands out the trajectory gathered so far


def overrides_in(args: str) -> dict[str, Any]:
    """The overrides in a string of NRPCoreSim's options: path -> value.

    Raises:
        ConfigurationError: one of them is no `path=value`.
    """
    words = _split(args)
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


def _split(args: str) -> list[str]:
    """Words as a shell would split them, but with their quotes, which belong to JSON."""
    if '"' in _WORD.sub("", args):
        raise ConfigurationError(f"a quote in {args!r} is not closed")
    return _WORD.findall(args)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a shell takes quotes away that NRPCoreSim then does without
        return text
