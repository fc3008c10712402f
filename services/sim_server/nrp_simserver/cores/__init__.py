"""The co-simulation cores behind one interface, `NrpCore`; `create_core` picks the one that can run an experiment.

The methods and their returns are those of nrp_client's `NrpCore` (nrp-core 1.4), so that an experiment cannot tell
which core drives it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from nrp_simserver.cores.configuration import MQTTNodeConfiguration

DataPublisher = Callable[[str, bytes, int, bool], None]
"""Publishes streamed data: (topic below the simulation's, e.g. "data/camera"; payload; QoS 0..2; retained)."""

EngineProcesses = Literal["needed", "all"]
"""Whether only engines that need one get a process of their own, or all that can run in one."""


def number_of_iterations(given: Any) -> int:
    """What `run_loop` was given as a number of iterations, which has to be a positive integer of whatever type.

    Raises:
        TypeError: it is no integer.
        ValueError: it is less than 1.
    """
    try:
        number = operator.index(given)
    except TypeError:
        raise TypeError(f"run_loop() takes a number of iterations, a whole one, not {given!r}") from None
    if number < 1:
        raise ValueError(f"run_loop() takes a number of iterations of at least 1, not {number}")
    return number


class MessageBroker(Protocol):
    """A connection to an MQTT broker for the MQTT nodes of a computational graph. Topics are as the experiment says."""

    def subscribe(self, takers: Mapping[str, Callable[[bytes], None]]) -> None:
        """Have each message on a topic taken by its taker, in another thread, in place of what was subscribed before.

        When it returns, the broker knows; what it has retained on these topics arrives once more.
        """

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish and return at once."""

    def close(self) -> None:
        """Say goodbye, when what was published is delivered or has had its time."""


BrokerConnector = Callable[["MQTTNodeConfiguration"], MessageBroker]
"""Connects to the broker that the MQTT nodes are to use. Raises an NRPError when it cannot be reached."""

Rest = Callable[[float], object]
"""Lets so many seconds pass, or fewer when the simulation is paused or stopped meanwhile."""


class NrpCore(Protocol):
    """One co-simulation: engines and functions stepped in lockstep. Not thread-safe: one thread makes all the calls."""

    @property
    def timestep_ns(self) -> int:
        """The simulated time of a `run_loop(1)` in nanoseconds: the smallest EngineTimestep, or EventLoop.Timestep."""

    @property
    def timeout_ns(self) -> int:
        """The SimulationTimeout, or EventLoop.Timeout, in nanoseconds, 0 for none."""

    @property
    def steps_at_once(self) -> int:
        """How many steps a call of `run_loop` may take so that a pause or a stop need not wait for it, 1 or more."""

    def initialize(self) -> list[Any]:
        """Start the engines and load the functions.

        Returns:
            The observations: the datapacks that functions ask of the engines, in order.
        """

    def run_loop(self, num_iterations: int = 1) -> tuple[bool, list[Any]]:
        """Advance by `num_iterations` smallest timesteps.

        Returns:
            Whether the status function reported done, and the trajectory gathered since, when it did.
        """

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        """Advance until the status function reports done or the timeout is reached: (done, timed_out, trajectory)."""

    def reset(self) -> list[Any]:
        """Bring the co-simulation back to t = 0. Returns the observations, as `initialize` does."""

    def shutdown(self) -> None:
        """End all engines. May be called in any state, repeatedly."""

    def set_json_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        """Hand `payload` (JSON values) to an engine with the next `run_loop` or `reset`."""

    def set_proto_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        """Hand a protobuf message to an engine with the next `run_loop` or `reset`."""

    def current_state(self) -> str:
        """One of Created, Initialized, Running, Stopped, Failed."""
