"""The nrpcoresim core: a co-simulation in the original program, with the methods, returns and errors of nrp_client."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

import nrp_shims
from nrp_common.errors import CallNotAllowed, CoreFailed, CoreLost, EngineUnavailable
from nrp_simserver.cores import number_of_iterations
from nrp_simserver.cores.configuration import DEFAULT_FILE, NANOSECONDS, SimulationConfiguration, load_configuration
from nrp_simserver.cores.embedded.json_values import from_engine
from nrp_simserver.cores.embedded.proto_files import ProtoFiles
from nrp_simserver.cores.error_place import place_told
from nrp_simserver.cores.nrpcoresim.messages import HandedIn, observations_of, pb, trajectory_of
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.nrpcoresim.overrides import override_options
from nrp_simserver.cores.nrpcoresim.program import find_program, not_found
from nrp_simserver.cores.nrpcoresim.server import Server

LONGEST_CALL_S: Final = 0.1
"""How long a call for many steps should take at most: a pause or a stop waits for its end."""

MOST_STEPS: Final = 2**31 - 1
"""What the message has room for."""

STATES: Final = frozenset({"Created", "Initialized", "Running", "Stopped", "Failed"})

READY: Final = ("Initialized", "Running", "Stopped")
"""Those in which it may be asked to go on; whether it does, it decides itself. A call never leaves it running."""

LEADS_TO: Final = {
    "initialize": "Initialized",
    "runLoop": "Stopped",
    "runUntilTimeout": "Stopped",
    "reset": "Initialized",
}
"""The state after a call, for a server that does not tell."""


class NRPCoreSim:
    """Runs one experiment; see `nrp_simserver.cores.NrpCore` for what its methods promise.

    What the program and its engines write is in `.console_output.log` in the experiment's folder. When a call fails
    because the program has ended, the error is a `CoreLost` with the end of that log; when the program says that the
    simulation failed, it is a `CoreFailed` that says why. After either nothing but `shutdown` is left.

    Not thread-safe. Launched from the main thread the program ends with this process, however that ends.

    Args:
        folder: the experiment's folder.
        config_file: its configuration, relative to `folder`.
        configuration: the configuration, when it is read already; the program reads `config_file`.
        overrides: values in place of those of the file, by path; not for a server that runs already.
        arguments: further options for the program's command line.
        options: which NRPCoreSim it is.
        pass_on_log: whether what the program and its engines write goes to this process's stdout, too.

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
        arguments: Sequence[str] = (),
        options: NRPCoreSimOptions | None = None,
        pass_on_log: bool = False,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.configuration = configuration or load_configuration(self.folder, config_file, overrides)
        self.options = options or NRPCoreSimOptions()
        self._server = Server(
            self.options,
            self.folder,
            config_file,
            [*override_options(overrides or {}), *arguments],
            pass_on_log=pass_on_log,
        )
        self._proto_files = ProtoFiles(self.folder)
        self._has_engines = False  # which the server started for this core
        self._was_interrupted = False
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
    def time_ns(self) -> int:
        """The simulated time in nanoseconds that all calls of `run_loop` together have come to."""
        return self._time_ns

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

        An observation of a type that is not known here stays packed, as a `google.protobuf.Any`.

        Raises:
            EngineUnavailable: there is no such program. As a `CoreNotReady`: it cannot be reached in time.
            CoreLost: it ended instead of getting ready.
            CoreFailed: it could not initialise the simulation.
            CallNotAllowed: it is initialised already, by this core or, when it runs already, by somebody else.
        """
        self._allow("Created")
        self._state = "Failed"  # until it is initialised
        self._check_program()
        self._find_messages()
        self._server.open()
        self._has_engines = True
        try:
            response = self._request("initialize", pb.EmptyMessage())
        except CallNotAllowed as refusal:
            self._has_engines = False
            if self._server.is_ours:
                raise
            raise CallNotAllowed(f"{self._server.name} runs somebody else's simulation: {refusal}") from None
        return self._read(observations_of, response)

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
        self._allow(*READY)
        done, trajectory = False, []
        while left:
            steps = min(left, self.steps_at_once)
            response = self._advance(steps)
            done |= response.doneFlag
            trajectory += self._read(trajectory_of, response)
            left -= steps
        return done, trajectory

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        """Advance until the status function reports done or the timeout is reached: (done, timed out, trajectory).

        Raises:
            As `run_loop`.
        """
        self._allow(*READY)
        while True:
            left = self._steps_left()
            if left == 0:
                return False, True, []
            if left == 1 and self._server_knows_the_timeout and not self._handed_in:
                # Without being done the program hands out what was gathered at the end of its own runUntilTimeout only.
                response = self._request("runUntilTimeout", pb.EmptyMessage())
                self._time_ns += self.timestep_ns
                return response.doneFlag, True, self._read(trajectory_of, response)
            done, trajectory = self.run_loop(1 if left is None else min(self.steps_at_once, max(1, left - 1)))
            if done:
                return True, self._steps_left() == 0, trajectory

    def reset(self) -> list[Any]:
        """Bring the co-simulation back to t = 0; returns the observations.

        Raises:
            As `run_loop`.
        """
        self._allow(*READY)
        response = self._request("reset", pb.ResetMessage(dataPacks=self._handed_in.datapacks()))
        self._handed_in.clear()
        self._time_ns = 0
        return self._read(observations_of, response)

    def shutdown(self) -> None:
        """End all engines and the program, by force when they take too long. A server that ran already is left alone.

        May be called in any state, repeatedly.
        """
        try:
            if self._has_engines:
                self._server.shut_engines_down(in_a_step=self._was_interrupted)
        finally:
            self._server.close()
            self._proto_files.close()
            self._has_engines = self._was_interrupted = False
            self._handed_in.clear()
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

    # -- the start -----------------------------------------------------------------------------------------------------

    def _check_program(self) -> None:
        if self._server.is_ours and find_program(self.options.program) is None:
            engines = ", ".join(f"engine {engine.name!r} ({engine.type})" for engine in self.configuration.engines)
            raise EngineUnavailable(
                f"the original nrp-core is to run {engines or 'the experiment'}, and {not_found(self.options.program)}"
            )

    def _find_messages(self) -> None:
        if importlib.util.find_spec("nrp_protobuf") is None:  # it is on the path of simulations, not of libraries
            sys.path.append(str(nrp_shims.PATH))
        self._proto_files.open()

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
        request = pb.RunLoopMessage(numIterations=steps, dataPacks=self._handed_in.datapacks())
        began_at = time.perf_counter()
        response = self._request("runLoop", request)
        step_s = (time.perf_counter() - began_at) / steps
        # At most twice as many as were just measured: a few steps may have been quick by chance.
        self._steps_at_once = max(1, min(2 * steps, int(LONGEST_CALL_S / step_s), MOST_STEPS))
        self._handed_in.clear()
        self._time_ns += steps * self.timestep_ns
        return response

    def _request(self, method: str, request: Any) -> Any:
        """Have the server carry out `method`, and take over the state it is in then. Returns the response."""
        before, self._state = self._state, "Running"
        try:
            response = self._server.call(method, request)
        except CallNotAllowed:
            self._state = before
            raise
        except CoreLost as lost:
            self._state = "Failed"
            file, line = place_told(str(lost), self.folder)
            raise CoreLost(str(lost), file=file, line=line) from None
        except CoreFailed as error:
            raise self._failure(str(error)) from None
        except BaseException:  # raised by a signal: somebody wants this call to end
            self._was_interrupted = True
            if method != "initialize":
                self._server.stop_loop()
            self._state = "Failed" if before == "Failed" else "Stopped"
            raise
        said = response.simState
        if said.currentState == "Failed":
            raise self._failure(f"NRPCoreSim failed in {method}: {said.errorMsg or 'it does not say why'}")
        self._state = said.currentState if said.currentState in STATES else LEADS_TO[method]
        return response

    def _failure(self, what: str) -> CoreFailed:
        """The error of a simulation that has failed."""
        self._state = "Failed"
        last_words = self._server.last_words()
        told = place_told(what, self.folder)
        file, line = told if told[0] else place_told(last_words, self.folder)
        return CoreFailed(f"{what}{last_words}", file=file, line=line)

    def _read(self, entries_of: Callable[[Any], list[Any]], response: Any) -> list[Any]:
        """The trajectory or the observations of a response. One that cannot be read is a failure."""
        try:
            return entries_of(response)
        except CoreFailed as error:
            raise self._failure(str(error)) from None

    # -- the timeout ---------------------------------------------------------------------------------------------------

    @property
    def _server_knows_the_timeout(self) -> bool:
        # NRPCoreSim cuts it to whole seconds; a server that ran already may have been started with another one.
        return self._server.is_ours and self.timeout_ns % NANOSECONDS == 0

    def _steps_left(self) -> int | None:
        """How many steps it takes to reach the timeout; None when there is none."""
        if not self.timeout_ns:
            return None
        return max(0, -((self._time_ns - self.timeout_ns) // self.timestep_ns))
