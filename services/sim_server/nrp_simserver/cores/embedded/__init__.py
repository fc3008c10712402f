"""The embedded core: runs experiments written for nrp-core 1.4 in this process.

A library of its own:

    from nrp_simserver.cores.embedded import NrpCore

    core = NrpCore("path/of/an/experiment")
    core.initialize()
    core.run_loop(100)
    core.shutdown()
"""

from nrp_simserver.cores.embedded import (  # noqa: F401  these are the engine types it can run
    data_transfer,
    python_grpc,
    python_json,
)
from nrp_simserver.cores.embedded.core import NrpCore
from nrp_simserver.cores.embedded.engine import Engine

__all__ = ["Engine", "NrpCore"]
