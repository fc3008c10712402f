"""A frontend as NRP 4 has them: MQTT 3.1.1 over WebSocket at `/`, subscribed to all at QoS 0, publishing nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt


class Frontend:
    """Keeps all that it hears, in order, as (topic, payload, retained)."""

    def __init__(self, address: str) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self._changed = threading.Condition(threading.RLock())
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311, transport="websockets", clean_session=True
        )
        self._client.ws_set_options(path="/")
        self._client.on_message = self._take
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=0)
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        parts = urlsplit(address)
        self._client.connect(parts.hostname or "", parts.port or 0)
        self._client.loop_start()
        assert subscribed.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.heard.append((message.topic, bytes(message.payload), message.retain))
            self._changed.notify_all()

    def of(self, topic: str) -> list[Any]:
        """The JSON messages heard on `topic`."""
        with self._changed:
            return [json.loads(payload) for heard, payload, _ in self.heard if heard == topic and payload]

    def publish(self, topic: str, payload: bytes) -> None:
        """Say something, which frontends do not; but whoever reaches the bus can."""
        self._client.publish(topic, payload)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout), [entry[:2] for entry in self.heard[-20:]]

    def wait_for_state(self, simulation_id: int, state: str, timeout: float = 30) -> None:
        topic = f"nrp_simulation/{simulation_id}/status"
        self.wait_for(lambda: any(status.get("state") == state for status in self.of(topic)), timeout)
