"""py_sim: an engine whose Python script drives a physics simulator, stepped in this process."""

from __future__ import annotations

import importlib.util
from typing import Any

from nrp_simserver.cores.configuration import PySimConfiguration, PythonEngineConfiguration
from nrp_simserver.cores.embedded.python_json import EngineScript, PythonJsonEngine
from nrp_simserver.cores.embedded.simulators import ADAPTERS, Simulator, open_simulator, render_without_display


class PySimEngineScript(EngineScript):
    """What the file of a py_sim engine subclasses as `Script`: an EngineScript with a simulator.

    Attributes:
        sim_manager: the simulator, its world loaded; there from `initialize` on.
    """

    sim_manager: Simulator

    def reset(self) -> None:
        """Reset the simulator. A script with a `reset` of its own does that itself."""
        self.sim_manager.reset()


class PySimEngine(PythonJsonEngine):
    """Runs the class `Script` of the engine's file, with a simulator; only the script tells that to step."""

    engine_type = "py_sim"
    script_class = PySimEngineScript

    configuration: PySimConfiguration

    @classmethod
    def missing(cls, configuration: PythonEngineConfiguration) -> str:
        """The simulator's package, when it is not installed."""
        assert isinstance(configuration, PySimConfiguration)
        adapter = ADAPTERS[configuration.simulator]
        if importlib.util.find_spec(adapter.needs) is not None:
            return ""
        return (
            f"the package {adapter.distribution} for Simulator {configuration.simulator!r}:"
            f" pip install 'nrp-backend[{adapter.extra}]'"
        )

    def initialize(self) -> None:
        """Load the file, make its `Script`, give it the simulator and initialise it."""
        render_without_display()  # before the file imports mujoco
        super().initialize()

    def _initialize_script(self) -> None:
        script: Any = self._script
        script.sim_manager = self._simulator = open_simulator(self.configuration, self.folder)
        try:
            script.initialize()
        except BaseException:
            self._simulator.shutdown()
            raise

    def seed(self, seed: int) -> None:
        """Seed the simulator."""
        self._simulator.seed(seed)

    def shutdown(self) -> None:
        """Let the script end, then the simulator."""
        try:
            super().shutdown()
        finally:
            self._simulator.shutdown()
