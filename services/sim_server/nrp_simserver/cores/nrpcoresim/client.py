"""`NrpCore` as nrp_client has it, over the original program: a master script runs with one import changed."""

from __future__ import annotations

from pathlib import Path

from nrp_simserver.cores.client import NrpCoreClient, overrides_in, words_in
from nrp_simserver.cores.configuration import DEFAULT_FILE, load_configuration
from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions


class NrpCore(NrpCoreClient):
    """Runs one experiment in an NRPCoreSim, launched by `initialize` and ended by `shutdown`.

    Args:
        address: `host:port` of the server to attach to; without `attach` of no meaning: a free one is taken.
        experiment_folder: the experiment's folder, the working directory when empty.
        config_file: its configuration, relative to that.
        args: further options of the program, such as overrides of the configuration: `-o SimulationTimeout=5
            -o EngineConfigs.EngineName:camera.MQTTBroker="host:1883"`.
        log_output: of no meaning: what the program and its engines write is in `.console_output.log` in the folder.
        server_timeout: how long it may take until the server can be reached, in seconds.
        attach: drive the server that runs at `address` already, with the configuration that it was started with; it
            is left alone at the end.
        program: the program, a name on the PATH or a path.

    Raises:
        ConfigurationError: the configuration, or an override of it, is missing or wrong.
    """

    def __init__(
        self,
        address: str = "",
        experiment_folder: str | Path = "",
        config_file: str = DEFAULT_FILE,
        args: str = "",
        log_output: str | None = None,  # noqa: ARG002  nrp_client's signature
        server_timeout: float = 10,
        *,
        attach: bool = False,
        program: str = "NRPCoreSim",
    ) -> None:
        folder = Path(experiment_folder or ".").resolve()
        super().__init__()
        self._core = NRPCoreSim(
            folder,
            config_file,
            configuration=load_configuration(folder, config_file, overrides_in(args)),
            arguments=words_in(args),
            options=NRPCoreSimOptions(
                program=program, address=address if attach else None, start_timeout_s=server_timeout
            ),
        )
