"""Which core runs an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nrp_common.errors import EngineUnavailable
from nrp_simserver.cores import DataPublisher, NrpCore
from nrp_simserver.cores.configuration import EngineConfiguration, SimulationConfiguration

Kind = Literal["auto", "embedded", "nrpcoresim"]

_NEEDS: dict[str, str] = {
    "py_sim": "a physics simulator, which the embedded core does not have",
    "nest_json": "NEST, which the embedded core does not have",
    "nest_server": "NEST Server, which the embedded core does not have",
}
"""What engines need that the embedded core could have; all others need the original nrp-core."""


def create_core(
    configuration: SimulationConfiguration,
    folder: Path,
    kind: Kind = "auto",
    publisher: DataPublisher | None = None,
) -> NrpCore:
    """The core that runs an experiment, in state Created.

    Args:
        configuration: the experiment's configuration.
        folder: the experiment's folder.
        kind: "embedded", "nrpcoresim" (the original program), or "auto": the embedded one if it can run every engine.
        publisher: publishes the data that the experiment streams.

    Raises:
        EngineUnavailable: nothing here can run an engine of the experiment; names it, its type and what it needs.
    """
    from nrp_simserver.cores import embedded  # a launcher that only reads configurations needs none of it

    if kind == "nrpcoresim":
        raise EngineUnavailable("the original nrp-core cannot be driven; choose the embedded core")
    for engine in configuration.engines:
        if engine.type not in embedded.Engine.types:
            raise EngineUnavailable(_refusal(engine))
    return embedded.NrpCore(folder, configuration=configuration, publisher=publisher)


def _refusal(engine: EngineConfiguration) -> str:
    needs = _NEEDS.get(engine.type, "the original nrp-core (NRPCoreSim), which cannot be driven here")
    return f"engine {engine.name!r} is of type {engine.type}: it needs {needs}"
