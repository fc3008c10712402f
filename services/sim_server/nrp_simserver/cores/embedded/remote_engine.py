"""An engine that runs in a process of its own, as the loop sees it."""

from __future__ import annotations

from typing import Any

from nrp_simserver.cores.configuration import EngineConfiguration
from nrp_simserver.cores.embedded.datapacks import DataPack
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.engine_host import Request, packed, unpacked_datapack
from nrp_simserver.cores.embedded.engine_process import EngineProcess

STEP_ENDS_S = 2.0
"""How long a step that is under way has to end before the process is ended in the middle of it."""


class RemoteEngine(Engine[EngineConfiguration]):
    """Has another engine run in a process of its own, and steps it there while other engines step.

    A step costs one round trip: the request carries what the engine is sent, the answer brings the datapacks that were
    asked for after earlier steps. An error in a step is raised when that is completed.

    Args:
        engine: as it was made.
    """

    def __init__(self, engine: Engine[Any]) -> None:
        super().__init__(engine.configuration, engine.folder, None)
        self._engine = engine
        self._process: EngineProcess | None = None
        self._outgoing: dict[str, Any] = {}
        self._wanted: tuple[str, ...] = ()
        self._answered: dict[str, Any] = {}

    def launch(self) -> None:
        """Start the process, which begins to initialise the engine."""
        self._process = EngineProcess(self._engine, self.configuration.command_timeout_ns)

    def initialize(self) -> None:
        """Wait until the engine is initialised."""
        self._running().answer()

    def start_step(self, timestep_ns: int) -> None:
        """Have the engine begin a step."""
        self._ask(Request("runLoop", timestep_ns, self._outgoing, self._wanted))

    def complete_step(self) -> None:
        """Wait until the step begun last has ended."""
        process = self._running()
        if process.is_busy:
            self._answered = process.answer()

    def get_datapack(self, name: str) -> DataPack:
        """A datapack as the engine holds it after its last step."""
        self.complete_step()
        if name not in self._answered:
            self._answered |= self._answer_to(Request("read", datapacks=self._outgoing, wanted=(name,)))
            if name not in self._wanted:
                self._wanted = (*self._wanted, name)
        return unpacked_datapack(name, self.name, self._answered[name])

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Have data of datapacks go with the next request."""
        self._answered = {}
        for name, content in datapacks.items():
            self._outgoing[name] = packed(content)

    def reset(self) -> None:
        """Let the step under way end, then reset the engine."""
        self.complete_step()
        self._answered = {}
        self._answer_to(Request("reset"))

    def seed(self, seed: int) -> None:
        """Let the step under way end, then seed the engine, and the generators of its process."""
        self.complete_step()
        self._answer_to(Request("seed", seed))

    def shutdown(self) -> None:
        """End the engine and its process, whatever they are doing."""
        process, self._process = self._process, None
        if process is not None:
            process.end(STEP_ENDS_S)

    def _answer_to(self, request: Request) -> dict[str, Any]:
        self._ask(request)
        return self._running().answer()

    def _ask(self, request: Request) -> None:
        self._outgoing = {}
        self._running().ask(request)

    def _running(self) -> EngineProcess:
        assert self._process is not None
        return self._process
