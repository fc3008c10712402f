"""The connection of a computational graph's MQTT nodes to a broker: the simulation's own, or one of somebody else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from paho.mqtt.enums import MQTTProtocolVersion

from nrp_common.bus import BrokerAddress, Bus
from nrp_common.errors import AccessRefused
from nrp_simserver.cores import BrokerConnector
from nrp_simserver.cores.configuration import MQTTNodeConfiguration

CONNECTING_S: Final = 5.0
"""How long a broker has to answer: one may have been started together with the simulation."""

QOS: Final = 1

WHAT_IS_ALLOWED: Final = (
    "A simulation may use the topics below nrp_simulation/<its id> (in its environment NRP_SIMULATION_ID), and those"
    " that its launcher allows all of them with NRP_SIMULATION_TOPICS"
)

LINGER_S: Final = 0.5
"""How long the last messages have to be delivered."""

NOBODYS_BROKER: Final = BrokerAddress("localhost", 1883)
"""What nrp-core connects to when nobody says where."""


class MQTTNodes:
    """A connection of their own: what comes over it, however much it is, delays no command to the simulation."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def subscribe(self, takers: Mapping[str, Callable[[bytes], None]]) -> None:
        """Have each message on a topic taken by its taker; see `nrp_simserver.cores.MessageBroker`.

        Raises:
            BusUnavailable: the broker does not confirm it in time.
            AccessRefused: it does not let this simulation read one of them.
        """
        for topic, take in takers.items():
            self._bus.unsubscribe(topic)  # else the embedded broker sends nothing that it retained a second time
            self._bus.subscribe(topic, _handler(take), qos=QOS)
        if self._bus.is_connected:  # a broker that is away is told when it is back
            try:
                self._bus.await_subscriptions(CONNECTING_S)
            except AccessRefused as refusal:
                raise AccessRefused(f"{refusal}. {WHAT_IS_ALLOWED}") from refusal

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish and return at once. While the broker is away the messages wait for it."""
        self._bus.publish(topic, payload, qos=QOS)

    def close(self) -> None:
        """Say goodbye."""
        self._bus.close(linger_s=LINGER_S)


def _handler(take: Callable[[bytes], None]) -> Callable[[str, bytes], None]:
    return lambda _topic, payload: take(payload)


def connector(own: BrokerAddress | None = None, own_names: Collection[str] = ()) -> BrokerConnector:
    """What connects the MQTT nodes of an experiment.

    Args:
        own: the simulation's own broker, which is used when the experiment names none; None when it has none.
        own_names: as what, `host:port`, it is known otherwise.
    """

    def connect(node: MQTTNodeConfiguration) -> MQTTNodes:
        if own is not None and node.broker in {"", str(own), *own_names}:
            bus = Bus(own, node.client_name)
        else:
            address = BrokerAddress(*node.address) if node.broker else NOBODYS_BROKER
            bus = Bus(address, node.client_name, protocol=MQTTProtocolVersion.MQTTv311)  # which every broker speaks
        bus.start()
        try:
            bus.wait_until_connected(CONNECTING_S)
        except BaseException:
            bus.close(linger_s=0.0)
            raise
        return MQTTNodes(bus)

    return connect
