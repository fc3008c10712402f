"""The embedded core: a co-simulation in this process, with the methods, returns and errors of nrp_client's NrpCore."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nrp_common.errors import CallNotAllowed, EngineFailed, EngineUnavailable
from nrp_simserver.cores import BrokerConnector, DataPublisher, EngineProcesses, Rest, number_of_iterations
from nrp_simserver.cores.configuration import (
    DEFAULT_FILE,
    ENGINE_TYPES,
    EngineConfiguration,
    SimulationConfiguration,
    load_configuration,
)
from nrp_simserver.cores.embedded.engine import Engine, engine_error
from nrp_simserver.cores.embedded.event_loop.loops import EventLoop, GraphLoop
from nrp_simserver.cores.embedded.function_files import load_functions
from nrp_simserver.cores.embedded.json_values import from_engine
from nrp_simserver.cores.embedded.loop import Loop
from nrp_simserver.cores.embedded.placement import needing_processes
from nrp_simserver.cores.embedded.proto_files import ProtoFiles
from nrp_simserver.cores.embedded.remote_engine import RemoteEngine
from nrp_simserver.cores.embedded.surroundings import Occupant, Surroundings

if TYPE_CHECKING:
    from google.protobuf.message import Message

State = Literal["Created", "Initialized", "Running", "Stopped", "Failed"]


class EmbeddedCore:
    """Runs one experiment; see `nrp_simserver.cores.NrpCore` for what its methods promise.

    While a method runs, the working directory is the experiment's folder. Not thread-safe. Several in
    one process take turns, call by call; but only one of them has NEST there.

    Args:
        folder: the experiment's folder.
        config_file: its configuration, relative to `folder`.
        configuration: the configuration, when it is read already; `config_file` only names it in errors then.
        publisher: publishes the data that a data transfer engine streams; without one nothing is streamed.
        engine_processes: "all" to have engines run in processes of their own, also those that need none.
        connect: connects the MQTT nodes of a computational graph; without one there can be none.
        rest: lets time pass between the steps of a loop in real time.

    Raises:
        ConfigurationError: the configuration is missing or wrong.
        EngineUnavailable: it has an engine that this core cannot run, or something else; names all of that.
    """

    def __init__(
        self,
        folder: str | Path,
        config_file: str = DEFAULT_FILE,
        *,
        configuration: SimulationConfiguration | None = None,
        publisher: DataPublisher | None = None,
        engine_processes: EngineProcesses = "needed",
        connect: BrokerConnector | None = None,
        rest: Rest = time.sleep,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.configuration = configuration or load_configuration(self.folder, config_file)
        obstacles = obstacles_in(self.configuration)
        if obstacles:
            raise EngineUnavailable(f"{config_file}: {'; '.join(obstacles)}", file=config_file)
        self._publisher = publisher
        self._engine_processes: EngineProcesses = engine_processes
        self._connect = connect
        self._rest = rest
        self._state: State = "Created"
        self._engines: list[tuple[Engine[Any], Occupant]] = []  # that have to be shut down
        self._surroundings = Surroundings(self.folder)
        self._proto_files = ProtoFiles(self.folder)
        self._loop: Loop | None = None
        self._handed_in: list[tuple[str, str, Any]] = []
        self._leading_to_initialized = _Request(self, "Initialized")
        self._leading_to_stopped = _Request(self, "Stopped")
        self._leading_to_created = _Request(self, "Created")

    @property
    def timestep_ns(self) -> int:
        """The simulated time of a `run_loop(1)` in nanoseconds: the smallest EngineTimestep, or EventLoop.Timestep."""
        return self.configuration.timestep_ns

    @property
    def steps_at_once(self) -> int:
        """One: a call costs next to nothing."""
        return 1

    @property
    def timeout_ns(self) -> int:
        """The SimulationTimeout, or EventLoop.Timeout, in nanoseconds, 0 for none."""
        return self.configuration.timeout_ns

    @property
    def time_ns(self) -> int:
        """The simulated time in nanoseconds that all calls of `run_loop` together have come to."""
        return self._loop.time_ns if self._loop is not None else 0

    def current_state(self) -> str:
        """One of Created, Initialized, Running, Stopped, Failed."""
        return self._state

    def initialize(self) -> list[Any]:
        """Start the engines, load the functions; returns the observations.

        Raises:
            ProtoFileWrong: a .proto file in the folder cannot be compiled.
            EngineFailed: an engine did not start.
            FunctionFailed: a function is wrong or cannot be loaded.
            CallNotAllowed: it is initialised already, or has failed.
        """
        self._allow("Created")
        self._surroundings.open()
        with self._leading_to_initialized:
            self._proto_files.open()
            functions = self._surroundings.occupant()
            engines = self._start_engines(functions)
            self._surroundings.switch(functions)
            self._loop = self._make_loop(engines, functions)
            observations = self._loop.observations()
        self._surroundings.settle()
        return observations

    def run_loop(self, num_iterations: int = 1, *, until_done: bool = False) -> tuple[bool, list[Any]]:
        """Advance by `num_iterations` smallest timesteps, whatever the timeout.

        Args:
            num_iterations: how many.
            until_done: take no further one once the status function has reported done.

        Returns:
            Whether the status function reported done in any of them; if so, the trajectory gathered since it last did.

        Raises:
            ValueError, TypeError: `num_iterations` is not positive, or no integer.
            EngineFailed, FunctionFailed: an engine or a function raised; nothing but `shutdown` is left.
            CallNotAllowed: it is not initialised, or has failed.
        """
        number = number_of_iterations(num_iterations)
        loop = self._ready()
        with self._leading_to_stopped:
            self._hand_over(loop)
            done = False
            for _ in range(number):
                done |= loop.step()
                if done and until_done:
                    break
            return done, self._take_trajectory(loop) if done else []

    def gathered(self) -> list[Any]:
        """Hand out the trajectory that has been gathered since it was last handed out, without a step."""
        return self._take_trajectory(self._ready())

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        """Advance until the status function reports done or the timeout is reached: (done, timed out, trajectory).

        Raises:
            As `run_loop`.
        """
        loop = self._ready()
        with self._leading_to_stopped:
            self._hand_over(loop)
            timeout = self.timeout_ns or None
            done = False
            while not done and (timeout is None or loop.time_ns < timeout):
                done = loop.step()
            timed_out = timeout is not None and loop.time_ns >= timeout
            return done, timed_out, self._take_trajectory(loop)

    def reset(self) -> list[Any]:
        """Bring the co-simulation back to t = 0; returns the observations.

        Raises:
            EngineFailed: an engine's reset raised.
            CallNotAllowed: it is not initialised, or has failed.
        """
        loop = self._ready()
        with self._leading_to_initialized:
            handed_in, self._handed_in = self._handed_in, []
            loop.reset(handed_in)
            return loop.observations()

    def shutdown(self) -> None:
        """End all engines, also when some do not end in good order. May be called in any state, repeatedly.

        Raises:
            EngineFailed: the first error that an engine raised while it ended.
        """
        failed: EngineFailed | None = None
        engines, self._engines = self._engines, []
        loop, self._loop = self._loop, None
        self._handed_in = []
        if self._state == "Created":
            return
        with self._leading_to_created:
            for engine, occupant in engines:
                self._surroundings.switch(occupant)
                try:
                    engine.shutdown()
                except (Exception, SystemExit) as error:  # noqa: BLE001  raised when all have ended
                    failure = engine_error(engine, error)
                    failure.__cause__ = error
                    failed = failed or failure
        if loop is not None:
            loop.close()
        self._proto_files.close()
        self._surroundings.close()
        self._surroundings = Surroundings(self.folder)
        if failed is not None:
            raise failed

    def set_json_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        """Hand `payload` to an engine with the next `run_loop` or `reset`; the last of two of a name wins.

        Raises:
            ValueError: there is no such engine.
            TypeError: the payload has no JSON form.
        """
        self._hand_in(datapack_name, engine_name, from_engine(payload))

    def set_proto_datapack(self, datapack_name: str, engine_name: str, payload: Message) -> None:
        """Hand a copy of a protobuf message to an engine with the next `run_loop` or `reset`.

        Raises:
            ValueError: there is no such engine.
            TypeError: the payload is no message.
        """
        from nrp_simserver.cores.embedded import protobuf_datapacks  # others need not wait for protobuf

        if not protobuf_datapacks.is_message(payload):
            raise TypeError(f"datapack {datapack_name!r} has to be a protobuf message, not {type(payload).__name__}")
        self._hand_in(datapack_name, engine_name, protobuf_datapacks.copied(payload))

    def get_datapack(self, datapack_name: str, engine_name: str) -> Any:
        """A copy of a datapack as its engine holds it now: JSON values or a message.

        That is after the step that it is in, which ends later than now when it is longer than the smallest timestep.

        Raises:
            ValueError: there is no such engine.
            EngineFailed: the engine has no such datapack, or has gone.
            CallNotAllowed: it is not initialised, or has failed.
        """
        loop = self._ready()
        self._check_engine(engine_name)
        try:
            return loop.engine(engine_name).get_datapack(datapack_name).sent()
        except (Exception, SystemExit) as error:
            raise engine_error(loop.engine(engine_name), error) from error

    def seed(self, seed: int) -> None:
        """Have all random numbers after the next `initialize` or `reset` follow from `seed`.

        These are the global generators of `random` and `numpy.random`, of each engine and of the functions, and those
        of NEST (unless NestRNGSeed is given) and of Gymnasium's environments. Before `initialize` only the former:
        what simulators draw in it does not follow from the seed.

        Raises:
            EngineFailed: an engine in a process of its own has gone.
            CallNotAllowed: it has failed.
        """
        self._allow("Created", "Initialized", "Stopped")
        self._surroundings.seed(seed)
        if self._loop is not None:
            with _Request(self, self._state):
                self._loop.seed(seed)

    # -- how a request runs --------------------------------------------------------------------------------------------

    def _allow(self, *states: State) -> None:
        if self._state not in states:
            raise CallNotAllowed(f"Can't process request: the state is {self._state}")

    def _hand_in(self, datapack_name: str, engine_name: str, content: Any) -> None:
        if not isinstance(datapack_name, str):
            raise TypeError(f"the name of a datapack is text, not {datapack_name!r}")
        self._check_engine(engine_name)
        self._handed_in.append((engine_name, datapack_name, content))

    def _check_engine(self, name: str) -> None:
        names = [engine.name for engine in self.configuration.engines]
        if name not in names:
            raise ValueError(f"there is no engine {name!r}; engines are: {', '.join(names)}")

    def _ready(self) -> Loop:
        self._allow("Initialized", "Stopped")
        assert self._loop is not None
        return self._loop

    def _start_engines(self, functions: Occupant) -> list[tuple[Engine[Any], Occupant]]:
        """All engines, initialised, each with its occupant of this process; those elsewhere with that of functions."""
        made = [Engine.types[entry.type](entry, self.folder, self._publisher) for entry in self.configuration.engines]
        remote = {engine: RemoteEngine(engine) for engine in needing_processes(made, self._engine_processes)}
        engines: list[tuple[Engine[Any], Occupant]] = [
            (remote[engine], functions) if engine in remote else (engine, self._surroundings.occupant())
            for engine in made
        ]
        # Before anything of the experiment is loaded here; and they initialise while those here do.
        for each in remote.values():
            each.launch()
            self._engines.append((each, functions))
        for engine, occupant in sorted(engines, key=lambda each: each[1] is functions):
            self._surroundings.switch(occupant)
            try:
                engine.initialize()
            except (Exception, SystemExit) as error:
                raise engine_error(engine, error) from error
            if occupant is not functions:
                self._engines.append((engine, occupant))
        return engines

    def _make_loop(self, engines: list[tuple[Engine[Any], Occupant]], functions: Occupant) -> Loop:
        configuration, surroundings, folder = self.configuration, self._surroundings, self.folder
        if configuration.runs_in_real_time:
            return EventLoop(configuration, engines, surroundings, functions, folder, self._connect, self._rest)
        if configuration.has_graph:
            return GraphLoop(configuration, engines, surroundings, functions, folder, self._connect)
        return Loop(
            engines,
            load_functions(configuration, folder),
            surroundings,
            functions,
            folder,
            timestep_ns=configuration.timestep_ns,
            by_reference=configuration.argument_passing == "reference",
        )

    def _hand_over(self, loop: Loop) -> None:
        if self._handed_in:
            handed_in, self._handed_in = self._handed_in, []  # first: other threads may hand in more
            for each in handed_in:
                loop.put(*each)

    def _take_trajectory(self, loop: Loop) -> list[Any]:
        trajectory, loop.trajectory = loop.trajectory, []
        return trajectory


def obstacles_in(configuration: SimulationConfiguration) -> list[str]:
    """What the embedded core cannot run of an experiment, each with its field and the reason."""
    obstacles = []
    if configuration.has_graph and configuration.ros_node is not None:
        obstacles.append("ROSNode: it needs the original nrp-core, built with ROS")
    for index, engine in enumerate(configuration.engines):
        if needs := _needs(engine):
            field = f"EngineConfigs.{index}.EngineType"
            obstacles.append(f"{field}: engine {engine.name!r} is of type {engine.type}: it {needs}")
    return obstacles


def _needs(engine: EngineConfiguration) -> str:
    """What an engine needs that is not here, as a predicate; "" when it needs nothing."""
    if engine.type not in ENGINE_TYPES:
        return f"has to be one of {', '.join(sorted(ENGINE_TYPES))}, unless the original nrp-core has another one"
    if engine.type not in Engine.types:
        return "needs the original nrp-core"
    missing = Engine.types[engine.type].missing(engine)
    return missing and f"needs {missing}"


class _Request:
    """A context in which a call of the core runs: inside the experiment, and leading to a state.

    That state is `target`, or Failed after an exception. What is not an Exception was raised by somebody else to end
    the call (a signal, the simulation server): a core that was initialised is merely stopped by it.
    """

    __slots__ = ("_core", "_target")

    def __init__(self, core: EmbeddedCore, target: State) -> None:
        self._core = core
        self._target = target

    def __enter__(self) -> None:
        core = self._core
        core._surroundings.enter()
        core._state = "Running"

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        core = self._core
        if kind is None:
            core._state = self._target
        else:
            core._state = "Failed" if issubclass(kind, Exception) or core._loop is None else "Stopped"
        core._surroundings.leave()
