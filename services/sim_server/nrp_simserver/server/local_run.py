"""An experiment run in this process and in its own folder, without broker, gateway and clone."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from nrp_simserver import processes
from nrp_simserver.cores.configuration import load_configuration, real_time_factor_override
from nrp_simserver.cores.selection import create_core
from nrp_simserver.server import surroundings
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper
from nrp_simserver.server.external_processes import ExternalProcesses
from nrp_simserver.server.gate import Gate
from nrp_simserver.server.mqtt_nodes import connector
from nrp_simserver.server.script_runner import MainScript, NRPScriptRunner
from nrp_simserver.settings import CoreSettings

NO_SIMULATION = 0
"""Stands for a simulation's id in the names of its logs. Ids begin at 1."""


class LocalRun:
    """One run of an experiment, by the main thread of a process that does nothing else.

    Args:
        folder: the experiment's folder; working directory of script, engines and external processes, also afterwards.
        configuration: the configuration's name in it.
        main_script: the main script's name in it.
        settings: which co-simulation core to use.
        real_time_factor: the most simulated seconds in a real second; 0 for no limit, None for the configuration's.

    Attributes:
        clock: how far the run is; may be read from other threads.
    """

    def __init__(
        self,
        folder: Path,
        configuration: str,
        main_script: str,
        settings: CoreSettings,
        *,
        real_time_factor: float | None = None,
    ) -> None:
        self.clock = SimulationClock()
        self._folder = folder.resolve()
        self._configuration_file = configuration
        self._main_script = main_script
        self._settings = settings
        self._overrides = real_time_factor_override(real_time_factor)

    def run(self) -> None:
        """Initialise, execute the main script to its end, shut down.

        When this process ends, so does whatever the experiment has started and left running.

        Raises:
            Exception: whatever failed; `nrp_simserver.server.error_report` tells where.
        """
        configuration = load_configuration(self._folder, self._configuration_file, self._overrides)
        script = MainScript.load(self._folder, self._main_script)
        surroundings.work_in(self._folder)
        processes.adopt_orphans()
        atexit.register(_leave_nothing_running)  # before those of the experiment, so that it is called after them
        external_processes = ExternalProcesses()
        gate = Gate()
        gate.open()
        core = create_core(
            configuration,
            self._folder,
            self._settings.core,
            config_file=self._configuration_file,
            engine_processes=self._settings.engine_processes,
            connect=connector(),
            rest=gate.hold,
            nrpcoresim=self._settings.nrpcoresim_options,
        )
        try:
            external_processes.start(configuration.external_processes, self._folder)
            core.initialize()
            external_processes.check()
            nrp = NRPCoreWrapper(core, gate, self.clock, real_time_factor=configuration.real_time_factor)
            runner = NRPScriptRunner(script, nrp, NO_SIMULATION)
            self.clock.start()
            runner.run()
        finally:
            self.clock.pause()
            core.shutdown()
            external_processes.end()


def _leave_nothing_running() -> None:
    own = os.getpid()
    processes.end_all(lambda: [pid for pid in processes.descendants(own) if not processes.has_ended(pid)])
