"""The embedded core: runs experiments written for nrp-core 1.4 in this process.

A library of its own:

    from nrp_simserver.cores.embedded import NrpCore

    nrp = NrpCore("localhost:50051", experiment_folder="path/of/an/experiment")
    nrp.initialize()
    nrp.run_loop(100)
    nrp.shutdown()

`NrpCore` is called as nrp_client's; `EmbeddedCore` is what simulation servers use.
"""

from nrp_simserver.cores.embedded import (  # noqa: F401  these are the engine types it can run
    data_transfer,
    nest,
    nest_server,
    py_sim,
    python_grpc,
    python_json,
)
from nrp_simserver.cores.embedded.client import NrpCore
from nrp_simserver.cores.embedded.core import EmbeddedCore
from nrp_simserver.cores.embedded.engine import Engine

__all__ = ["EmbeddedCore", "Engine", "NrpCore"]
