"""The nrpcoresim core: the original program NRPCoreSim, launched or attached to, and driven by gRPC.

    from nrp_simserver.cores.nrpcoresim import NrpCore

    nrp = NrpCore("localhost:50051", experiment_folder="path/of/an/experiment")
    nrp.initialize()
    nrp.run_loop(100)
    nrp.shutdown()

`NrpCore` is called as nrp_client's; `core.NRPCoreSim` is what simulation servers use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nrp_simserver.cores.nrpcoresim.client import NrpCore

__all__ = ["NrpCore"]


def __getattr__(name: str) -> Any:
    """`NrpCore`, imported when it is asked for: gRPC, which it needs, must not be in a process that is to fork."""
    if name != "NrpCore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nrp_simserver.cores.nrpcoresim.client import NrpCore

    return NrpCore
