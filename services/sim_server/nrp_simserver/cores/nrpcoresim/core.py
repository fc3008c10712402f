"""The nrpcoresim core: a co-simulation in the original program, with the methods, returns and errors of nrp_client."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

import nrp_shims
from nrp_common.errors import CallNotAllowed, CoreFailed, CoreLost
from nrp_simserver.cores import number_of_iterations
from nrp_simserver.cores.configuration import DEFAULT_FILE, NANOSECONDS, SimulationConfiguration, load_configuration
from nrp_simserver.cores.embedded.json_values import from_engine
from nrp_simserver.cores.embedded.proto_files import ProtoFiles
from nrp_simserver.cores.nrpcoresim.connection import Connection
from nrp_simserver.cores.nrpcoresim.messages import HandedIn, pb, trajectory_of
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.nrpcoresim.overrides import data_transfer_overrides, override_options
from nrp_simserver.cores.nrpcoresim.program import Program

log = logging.getLogger(__name__)

LONGEST_CALL_S: Final = 0.1
"""How long a call for many steps should take at most: a pause or a stop waits for its end."""

MOST_STEPS: Final = 2**31 - 1
"""What the message has room for."""

SHUTDOWN_S: Final = 3.0
"""How long the engines have to shut down before they are killed; a launcher kills a whole simulation after 5 s."""

STOPPING_S: Final = 0.5
"""How long the server may take to note that a loop is to stop."""

_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')
"""A line of a Python traceback."""


class NRPCoreSim:
    """Runs one experiment; see `nrp_simserver.cores.NrpCore` for what its methods promise.

    What the program and its engines write is in `.console_output.log` in the experiment's folder. When a call fails
    because the program has ended, the error is a `CoreLost` with the end of that log; when the program says that the
    simulation failed, it is a `CoreFailed` that says why. After either nothing but `shutdown` is left.

    Not thread-safe. Launched from the main thread the program ends with this process, however that ends.

    Args:
        folder: the experiment's folder.
        config_file: its configuration, relative to `folder`.
        configuration: the configuration, when it is read already: where its data transfer engines publish is handed
            on to the program, which reads all else from `config_file`.
        overrides: values in place of those of the file, by path; not for a server that runs already.
        options: which NRPCoreSim it is.

    Raises:
        ConfigurationError: the configuration is missing or wrong.
    """

    def __init__(
        self,
        folder: str | Path,
        config_file: str = DEFAULT_FILE,
        *,
        configuration: SimulationConfiguration | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: NRPCoreSimOptions | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.configuration = configuration or load_configuration(self.folder, config_file, overrides)
        self.options = options or NRPCoreSimOptions()
        self._config_file = config_file
        self._overrides = {**data_transfer_overrides(self.configuration), **(overrides or {})}
        self._proto_files = ProtoFiles(self.folder)
        self._program: Program | None = None
        self._connection: Connection | None = None
        self._handed_in = HandedIn()
        self._state = "Created"
        self._time_ns = 0
        self._steps_at_once = 1

    @property
    def timestep_ns(self) -> int:
        """The simulated time of one `run_loop(1)`, the smallest EngineTimestep, in nanoseconds."""
        return self.configuration.timestep_ns

    @property
    def timeout_ns(self) -> int:
        """The SimulationTimeout in nanoseconds, 0 for none."""
        return self.configuration.timeout_ns

    @property
    def steps_at_once(self) -> int:
        """So many steps the program takes in 0.1 s, going by how long the last ones took.

        One with a status function: of several steps the program tells only whether the last one was done.
        """
        return 1 if self.configuration.status_function is not None else self._steps_at_once

    def current_state(self) -> str:
        """One of Created, Initialized, Running, Stopped, Failed: what the program said last."""
        return self._state

    def initialize(self) -> list[Any]:
        """Launch the program, or connect to the one that runs; start the engines. Returns the observations.

        Raises:
            EngineUnavailable: there is no such program. As a `CoreNotReady`: it cannot be reached in time.
            CoreLost: it ended instead of getting ready.
            CoreFailed: it could not initialise the simulation.
            CallNotAllowed: it is initialised already, or has failed.
        """
        self._allow("Created")
        self._state = "Failed"  # until it is initialised
        self._find_messages()
        try:
            self._connect()
        except BaseException:
            self._disconnect()
            raise
        response = self._request("initialize", pb.EmptyMessage())
        return self._trajectory(response)

    def run_loop(self, num_iterations: int = 1) -> tuple[bool, list[Any]]:
        """Advance by `num_iterations` smallest timesteps, whatever the timeout.

        Returns:
            Whether the status function reported done in any of them; if so, the trajectory gathered since it last did.

        Raises:
            ValueError, TypeError: `num_iterations` is not positive, or no integer.
            CoreLost: the program has ended.
            CoreFailed: the simulation failed.
            CallNotAllowed: it is not initialised, or has failed.
        """
        left = number_of_iterations(num_iterations)
        self._allow("Initialized", "Stopped")
        done, trajectory = False, []
        while left:
            steps = min(left, self.steps_at_once)
            response = self._advance(steps)
            done |= response.doneFlag
            trajectory += self._trajectory(response)
            left -= steps
        return done, trajectory

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        """Advance until the status function reports done or the timeout is reached: (done, timed out, trajectory).

        Raises:
            As `run_loop`.
        """
        self._allow("Initialized", "Stopped")
        while True:
            left = self._steps_left()
            if left == 0:
                return False, True, []
            if left == 1 and self._server_knows_the_timeout and not self._handed_in:
                # Without being done the program hands out what was gathered at the end of its own runUntilTimeout only.
                response = self._request("runUntilTimeout", pb.EmptyMessage())
                self._time_ns += self.timestep_ns
                return response.doneFlag, True, self._trajectory(response)
            done, trajectory = self.run_loop(1 if left is None else min(self.steps_at_once, max(1, left - 1)))
            if done:
                return True, self._steps_left() == 0, trajectory

    def reset(self) -> list[Any]:
        """Bring the co-simulation back to t = 0; returns the observations.

        Raises:
            As `run_loop`.
        """
        self._allow("Initialized", "Stopped")
        response = self._request("reset", pb.ResetMessage(dataPacks=self._handed_in.take()))
        self._time_ns = 0
        return self._trajectory(response)

    def shutdown(self) -> None:
        """End all engines and the program, by force when they take longer than 3 s. A server attached to goes on.

        May be called in any state, repeatedly.
        """
        try:
            self._shut_engines_down()
        finally:
            self._disconnect()
            self._proto_files.close()
            self._handed_in = HandedIn()
            self._time_ns = 0
            self._state = "Created"

    def set_json_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        """Hand `payload` to an engine with the next `run_loop` or `reset`; the last of two of a name wins.

        Raises:
            ValueError: there is no such engine.
            TypeError: the payload has no JSON form.
        """
        self._check_engine(engine_name)
        self._handed_in.put_json(datapack_name, engine_name, from_engine(payload))

    def set_proto_datapack(self, datapack_name: str, engine_name: str, payload: Message) -> None:
        """Hand a copy of a protobuf message to an engine with the next `run_loop` or `reset`.

        Raises:
            ValueError: there is no such engine.
            TypeError: the payload is no message.
        """
        self._check_engine(engine_name)
        if not isinstance(payload, Message):
            raise TypeError(f"datapack {datapack_name!r} has to be a protobuf message, not {type(payload).__name__}")
        self._handed_in.put_proto(datapack_name, engine_name, payload)

    # -- the program ---------------------------------------------------------------------------------------------------

    def _find_messages(self) -> None:
        if importlib.util.find_spec("nrp_protobuf") is None:  # it is on the path of simulations, not of libraries
            sys.path.append(str(nrp_shims.PATH))
        self._proto_files.open()

    def _connect(self) -> None:
        options = self.options
        if options.address is None:
            overrides = override_options(self._overrides)
            self._program = Program(options.program, self.folder, self._config_file, overrides)
            address = self._program.address
        else:
            address = options.address
        self._connection = Connection(address)
        self._connection.wait_until_ready(options.start_timeout_s, self._check_program)

    def _check_program(self) -> None:
        if self._program is not None and self._program.has_ended:
            raise CoreLost(f"NRPCoreSim {self._program.fate()}")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        program, self._program = self._program, None
        if connection is not None:
            connection.close()
        if program is not None:
            program.end()

    def _shut_engines_down(self) -> None:
        if self._connection is None or (self._program is not None and self._program.has_ended):
            return
        try:
            response = self._connection.call("shutdown", pb.EmptyMessage(), SHUTDOWN_S)
        except (CoreFailed, CoreLost, CallNotAllowed) as error:
            log.warning("The engines of NRPCoreSim were not shut down in order: %s", error)
        else:
            if response.simState.currentState == "Failed":
                log.warning("The engines of NRPCoreSim were not shut down in order: %s", response.simState.errorMsg)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _allow(self, *states: str) -> None:
        if self._state not in states:
            raise CallNotAllowed(f"Can't process request: the state is {self._state}")

    def _check_engine(self, name: str) -> None:
        names = [engine.name for engine in self.configuration.engines]
        if name not in names:
            raise ValueError(f"there is no engine {name!r}; engines are: {', '.join(names)}")

    def _advance(self, steps: int) -> Any:
        """Take so many steps in one call, and note how long it took. Returns the response."""
        request = pb.RunLoopMessage(numIterations=steps, dataPacks=self._handed_in.take())
        began_at = time.perf_counter()
        response = self._request("runLoop", request)
        step_s = (time.perf_counter() - began_at) / steps
        # At most twice as many as were just measured: a few steps may have been quick by chance.
        self._steps_at_once = max(1, min(2 * steps, int(LONGEST_CALL_S / step_s), MOST_STEPS))
        self._time_ns += steps * self.timestep_ns
        return response

    def _request(self, method: str, request: Any) -> Any:
        """Have the program carry out `method`, and take over the state it is in then. Returns the response."""
        assert self._connection is not None
        before, self._state = self._state, "Running"
        try:
            response = self._connection.call(method, request)
        except CallNotAllowed:
            self._state = before
            raise
        except CoreLost as error:
            self._state = "Failed"
            if self._program is None:
                raise
            raise CoreLost(f"NRPCoreSim {self._program.fate()}") from error
        except CoreFailed as error:
            raise self._failure(str(error)) from None
        except BaseException:  # raised by a signal: somebody wants this call to end
            if method != "initialize":
                with suppress(CoreFailed, CoreLost, CallNotAllowed):
                    self._connection.call("stopLoop", pb.EmptyMessage(), STOPPING_S)
            self._state = "Failed" if before == "Failed" else "Stopped"
            raise
        self._state = response.simState.currentState
        if self._state == "Failed":
            raise self._failure(f"NRPCoreSim failed in {method}: {response.simState.errorMsg or 'it does not say why'}")
        return response

    def _failure(self, what: str) -> CoreFailed:
        """The error of a simulation that has failed, with its place in the experiment's files if there is one."""
        self._state = "Failed"
        last_words = self._program.last_words() if self._program is not None else ""
        for text in (what, last_words):
            for frame in reversed(list(_FRAME.finditer(text))):
                path = (self.folder / frame["file"]).resolve()
                if path.is_relative_to(self.folder) and path.is_file():
                    file = path.relative_to(self.folder)
                    return CoreFailed(f"{what}{last_words}", file=file, line=int(frame["line"]))
        return CoreFailed(f"{what}{last_words}")

    def _trajectory(self, response: Any) -> list[Any]:
        try:
            return trajectory_of(response)
        except CoreFailed as error:
            raise self._failure(str(error)) from error

    # -- the timeout ---------------------------------------------------------------------------------------------------

    @property
    def _server_knows_the_timeout(self) -> bool:
        return self.timeout_ns % NANOSECONDS == 0  # NRPCoreSim cuts it to whole seconds

    def _steps_left(self) -> int | None:
        """How many steps it takes to reach the timeout; None when there is none."""
        if not self.timeout_ns:
            return None
        return max(0, -((self._time_ns - self.timeout_ns) // self.timestep_ns))
