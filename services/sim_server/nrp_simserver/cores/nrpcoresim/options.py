"""How to come by an NRPCoreSim."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat


class NRPCoreSimOptions(BaseModel):
    """Which NRPCoreSim runs an experiment.

    Attributes:
        program: the program to launch, a name on the PATH or a path.
        address: `host:port` of a server that runs already, which is driven instead of one launched. It keeps its own
            configuration; at the end its engines are shut down, and it is left alone.
        start_timeout_s: how long it may take until it can be reached, in seconds.
        shutdown_timeout_s: how long its engines may take to shut down, in seconds; then those of a program that was
            launched are killed with it.
        broker: `host:port` where its data transfer engine finds MQTT 3.1.1; None for the address of the bus.
    """

    model_config = ConfigDict(frozen=True)

    program: str = "NRPCoreSim"
    address: str | None = None
    start_timeout_s: PositiveFloat = 60.0
    shutdown_timeout_s: PositiveFloat = 2.5
    broker: str | None = None
