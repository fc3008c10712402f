"""Engines that are a Python script of the experiment, stepped in this process, whatever their datapacks carry."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Self

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.configuration import PythonEngineConfiguration
from nrp_simserver.cores.embedded.callables import line_of, misfit, place
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.surroundings import load_script

logger = logging.getLogger(__name__)


class PythonScript:
    """What all scripts have in common: they override `initialize`, `runLoop`, `shutdown` and perhaps `reset`.

    Attributes:
        _name: the engine's name.
        _config: the engine's entry in the configuration.
        _time_ns: the simulated time in nanoseconds that the step in hand leads to.
    """

    _name: str
    _config: dict[str, Any]
    _time_ns: int
    _datapacks: dict[str, Any]

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Scripts that have an __init__ of their own need not call this class's."""
        script = super().__new__(cls)
        script._name = ""
        script._config = {}
        script._time_ns = 0
        script._datapacks = {}
        return script

    def initialize(self) -> None:
        """Called once, before the first step."""

    def runLoop(self, timestep_ns: int) -> None:  # noqa: N802  nrp-core's name
        """Called for each step, `_time_ns` having been advanced by `timestep_ns`."""
        raise NotImplementedError(f"class {type(self).__name__} has no method runLoop(self, timestep_ns)")

    def reset(self) -> None:
        """Called when the simulation goes back to its beginning; `_time_ns` restarts afterwards."""

    def shutdown(self) -> None:
        """Called once, at the end."""

    def _getDataPack(self, datapack_name: str) -> Any:  # noqa: N802  nrp-core's name
        """The data of a datapack, as this script or a function last set it.

        Raises:
            KeyError: there is no such datapack.
        """
        try:
            return self._datapacks[datapack_name]
        except KeyError:
            raise KeyError(f"datapack {datapack_name!r} is not registered") from None

    def _getEngineName(self) -> str:  # noqa: N802  nrp-core's name
        return self._name

    def _getRegisteredDataPackNames(self) -> list[str]:  # noqa: N802  nrp-core's name
        return list(self._datapacks)


class PythonEngine(Engine[PythonEngineConfiguration]):
    """Runs the class `Script` of the engine's file."""

    script_class: ClassVar[type[PythonScript]]
    """What the file's `Script` has to be a subclass of."""

    _script: PythonScript

    def initialize(self) -> None:
        """Load the file, make its `Script` and initialise it."""
        module = load_script(self.folder, self.configuration.script, self.name)
        script_class = getattr(module, "Script", None)
        if not (isinstance(script_class, type) and issubclass(script_class, self.script_class)):
            raise EngineFailed(
                f"{self.configuration.script} defines no class Script({self.script_class.__name__})",
                file=self.configuration.script,
            )
        script = script_class()
        self._check(script)
        script._name = self.name
        script._config = self.configuration.as_json()
        self._script = script
        self._initialize_script()

    def _check(self, script: PythonScript) -> None:
        """Refuse a script that cannot run, before it begins to."""
        file = self.configuration.script
        for method, arguments in (("initialize", ()), ("runLoop", (self.timestep_ns,))):
            call = getattr(script, method)
            fault = misfit(call, *arguments)
            if fault:
                line = line_of(call, file)
                raise EngineFailed(
                    f"{place(file, line)}: {method} of class Script cannot be called: {fault}", file=file, line=line
                )

    def _initialize_script(self) -> None:
        """Call the `initialize` of the script, which has its name and configuration already."""
        self._script.initialize()

    def start_step(self, timestep_ns: int) -> None:
        """Advance the script's time, then run it."""
        script = self._script
        script._time_ns += timestep_ns
        script.runLoop(timestep_ns)

    def reset(self) -> None:
        """Let the script reset itself, seeing the time it had come to; then restart its time."""
        self._script.reset()
        self._script._time_ns = 0

    def shutdown(self) -> None:
        """Let the script end."""
        self._script.shutdown()

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Hand data to the script, which keeps it until it is replaced."""
        held = self._script._datapacks
        for name in datapacks:
            if name not in held:
                logger.warning(
                    "engine %s is sent datapack %s, which %s does not register",
                    self.name,
                    name,
                    self.configuration.script,
                )
        held.update(datapacks)

    def _held(self, name: str) -> Any:
        """What the script holds under a name that a function asks for."""
        held = self._script._datapacks
        try:
            return held[name]
        except KeyError:
            raise EngineFailed(
                f"engine {self.name!r}: a function asks for datapack {name!r}, which {self.configuration.script}"
                f" does not register (registered are: {', '.join(sorted(held)) or 'none'})",
                file=self.configuration.script,
            ) from None
