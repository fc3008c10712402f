"""`NrpCore` as nrp_client has it, over the embedded core: a master script for nrp_client runs with one import changed.

from nrp_simserver.cores.embedded import NrpCore

nrp = NrpCore("localhost:50051", experiment_folder="my_experiment")
nrp.initialize()
done, trajectory = nrp.run_loop(100)
nrp.shutdown()
"""

from __future__ import annotations

from pathlib import Path

from nrp_simserver.cores import BrokerConnector, DataPublisher, EngineProcesses
from nrp_simserver.cores.client import NrpCoreClient, overrides_in
from nrp_simserver.cores.configuration import DEFAULT_FILE, load_configuration
from nrp_simserver.cores.embedded.core import EmbeddedCore


class NrpCore(NrpCoreClient):
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
        super().__init__()
        self._core = EmbeddedCore(
            folder,
            configuration=configuration,
            publisher=publisher,
            engine_processes=engine_processes,
            connect=connect,
            rest=self._stop_asked.wait,
        )
