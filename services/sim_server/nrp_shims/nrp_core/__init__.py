"""What transceiver, preprocessing and status functions are declared with."""

from nrp_simserver.cores.embedded.datapacks import DataPackIdentifier
from nrp_simserver.cores.embedded.functions import (
    EngineDataPack,
    EngineDataPacks,
    PreprocessedDataPack,
    PreprocessingFunction,
    SimulationIteration,
    SimulationTime,
    StatusFunction,
    TransceiverFunction,
)

__all__ = [
    "DataPackIdentifier",
    "EngineDataPack",
    "EngineDataPacks",
    "PreprocessedDataPack",
    "PreprocessingFunction",
    "SimulationIteration",
    "SimulationTime",
    "StatusFunction",
    "TransceiverFunction",
]
