"""Which core runs an experiment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nrp_common.errors import EngineUnavailable
from nrp_simserver.cores import BrokerConnector, DataPublisher, EngineProcesses, NrpCore, Rest
from nrp_simserver.cores.configuration import DEFAULT_FILE, SimulationConfiguration
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.nrpcoresim.overrides import data_transfer_overrides
from nrp_simserver.cores.nrpcoresim.program import find_program, not_found

Kind = Literal["auto", "embedded", "nrpcoresim"]


class Diversion(NamedTuple):
    """Where the original program is to publish streamed data.

    Attributes:
        prefix: the MQTT prefix.
        broker: `host:port`, None for the one in the configuration.
    """

    prefix: str
    broker: str | None = None


def create_core(
    configuration: SimulationConfiguration,
    folder: Path,
    kind: Kind = "auto",
    publisher: DataPublisher | None = None,
    *,
    config_file: str = DEFAULT_FILE,
    engine_processes: EngineProcesses = "needed",
    connect: BrokerConnector | None = None,
    rest: Rest = time.sleep,
    nrpcoresim: NRPCoreSimOptions = NRPCoreSimOptions(),  # noqa: B008  immutable
    divert: Callable[[], Diversion] | None = None,
) -> NrpCore:
    """The core that runs an experiment, in state Created.

    Args:
        configuration: the experiment's configuration.
        folder: the experiment's folder.
        kind: "embedded", "nrpcoresim" (the original program), or "auto": the embedded one if it can run the experiment,
            else the original program if it is there.
        publisher: publishes the data that the experiment streams through the embedded core.
        config_file: where the configuration was read from, relative to `folder`.
        engine_processes: which engines of the embedded core run in processes of their own.
        connect: connects the MQTT nodes of a computational graph in the embedded core; without one there can be none.
        rest: lets time pass between the steps of a loop in real time of the embedded core.
        nrpcoresim: how to come by the original program.
        divert: called when the original program will publish streamed data itself, returns where it is to do that, as
            far as `configuration` does not say it; without it the program does what the file says.

    Raises:
        EngineUnavailable: nothing here can run the experiment; names the engines that are the reason, or what else is.
    """
    if kind != "nrpcoresim":
        try:
            return _embedded(
                configuration,
                folder,
                config_file,
                publisher=publisher,
                engine_processes=engine_processes,
                connect=connect,
                rest=rest,
            )
        except EngineUnavailable as unable:
            if kind == "embedded":
                raise EngineUnavailable(f"{unable}; only the embedded core is to be used", file=config_file) from None
            if not (nrpcoresim.address or find_program(nrpcoresim.program)):
                raise EngineUnavailable(f"{unable}; {not_found(nrpcoresim.program)}", file=config_file) from None
    overrides: dict[str, Any] = {}
    if divert is not None and configuration.transfers_data and nrpcoresim.address is None:
        diversion = divert()
        overrides = data_transfer_overrides(configuration.publishing_below(diversion.prefix, diversion.broker))
    return _original(configuration, folder, config_file, overrides, nrpcoresim)


# Imported when needed: a launcher that only reads configurations needs neither, and gRPC cannot be forked.


def _embedded(configuration: SimulationConfiguration, folder: Path, config_file: str, **options: Any) -> NrpCore:
    from nrp_simserver.cores.embedded import EmbeddedCore

    return EmbeddedCore(folder, config_file, configuration=configuration, **options)


def _original(
    configuration: SimulationConfiguration,
    folder: Path,
    config_file: str,
    overrides: dict[str, Any],
    options: NRPCoreSimOptions,
) -> NrpCore:
    from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim

    return NRPCoreSim(
        folder, config_file, configuration=configuration, overrides=overrides, options=options, pass_on_log=True
    )
