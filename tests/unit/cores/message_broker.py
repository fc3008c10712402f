"""A broker for the MQTT nodes of experiments made up by tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nrp_simserver.cores.configuration import MQTTNodeConfiguration


class FakeMessageBroker:
    """A broker with nobody else on it.

    Attributes:
        retained: what it sends to who subscribes.
        published: (topic, payload), in order.
        configuration: what the connection was made with, None before.
        is_closed: whether the connection was closed.
    """

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        self.configuration: MQTTNodeConfiguration | None = None
        self.is_closed = False
        self._takers: Mapping[str, Callable[[bytes], None]] = {}

    def connect(self, configuration: MQTTNodeConfiguration) -> FakeMessageBroker:
        """A `BrokerConnector`."""
        self.configuration = configuration
        self.is_closed = False
        return self

    def subscribe(self, takers: Mapping[str, Callable[[bytes], None]]) -> None:
        self._takers = takers
        for topic, payload in self.retained.items():
            self.say(topic, payload)

    def publish(self, topic: str, payload: bytes) -> None:
        self.published.append((topic, payload))

    def close(self) -> None:
        self.is_closed = True

    def say(self, topic: str, payload: bytes) -> None:
        """Somebody publishes."""
        if topic in self._takers:
            self._takers[topic](payload)
