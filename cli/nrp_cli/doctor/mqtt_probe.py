"""One connection to a broker, made to see what it says."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from nrp_common.broker_obstacles import CLOSED, obstacle_of, refusal_of
from nrp_common.bus import BrokerAddress, tls_context
from nrp_common.errors import BusUnavailable

TIMEOUT_S: Final = 3.0

VERSION_S: Final = 1.0
"""How long a broker has to say what program it is: it is retained where there is such a topic."""

LONGEST_VERSION: Final = 100
"""Characters."""


@dataclass(frozen=True)
class Greeting:
    """What a broker said when it let a client in; None for what it did not say, as all do in MQTT 3.1.1.

    Attributes:
        largest_packet: in bytes (MQTT 5, 3.2.2.3.6).
        best_qos: the highest quality of service that it knows (3.2.2.3.4).
        retains: whether it keeps retained messages (3.2.2.3.5).
    """

    largest_packet: int | None
    best_qos: int | None
    retains: bool | None


def greet(broker: BrokerAddress, *, is_mqtt5: bool) -> Greeting:
    """Connect over TCP and leave again.

    Raises:
        BusUnavailable: says why it does not work.
    """
    return _greet(_client(broker, is_mqtt5=is_mqtt5, transport="tcp"), broker.host, broker.port, tls=broker.tls)


def greet_over_websocket(url: str, broker: BrokerAddress) -> Greeting:
    """Connect over WebSocket as frontends do, with MQTT 3.1.1, and leave again.

    Args:
        url: the address.
        broker: what it takes to get in.

    Raises:
        BusUnavailable: says why it does not work.
    """
    address = urlsplit(url)
    is_tls = address.scheme == "wss"
    client = _client(broker, is_mqtt5=False, transport="websockets", tls=is_tls)
    client.ws_set_options(path=address.path or "/")
    return _greet(client, address.hostname or "", address.port or (443 if is_tls else 80), tls=is_tls)


def ask_version(broker: BrokerAddress) -> str:
    """What program the broker is, "" when it does not say.

    On a connection of its own: the embedded broker closes one that asks for this topic.
    """
    answered, said = threading.Event(), [""]

    def take(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        said.append(message.payload.decode(errors="replace")[:LONGEST_VERSION])
        answered.set()

    client = _client(broker, is_mqtt5=True, transport="tcp")
    client.on_connect = lambda client, *_: client.subscribe("$SYS/broker/version")
    client.on_disconnect = lambda *_: answered.set()
    client.on_message = take
    _ask(client, broker, answered, VERSION_S)
    return said[-1]


def refused_filters(broker: BrokerAddress, filters: Sequence[str]) -> list[str]:
    """Of topic filters those that the broker does not let this user subscribe to; all when it says nothing."""
    answered, refused = threading.Event(), list(filters)

    def take(_client: mqtt.Client, _userdata: object, _packet: int, reasons: list[ReasonCode], _: object) -> None:
        refused[:] = [each for each, reason in zip(filters, reasons, strict=False) if reason.is_failure]
        answered.set()

    client = _client(broker, is_mqtt5=True, transport="tcp")
    client.on_connect = lambda client, *_: client.subscribe([(each, 0) for each in filters])
    client.on_subscribe = take
    _ask(client, broker, answered, TIMEOUT_S)
    return refused


def _ask(client: mqtt.Client, broker: BrokerAddress, answered: threading.Event, patience_s: float) -> None:
    """Connect, wait for the answer, and leave again."""
    with suppress(OSError, ValueError):
        client.connect(broker.host, broker.port)
        client.loop_start()
        answered.wait(patience_s)
        client.disconnect()
        client.loop_stop()


def _client(broker: BrokerAddress, *, is_mqtt5: bool, transport: str, tls: bool | None = None) -> mqtt.Client:
    protocol = MQTTProtocolVersion.MQTTv5 if is_mqtt5 else MQTTProtocolVersion.MQTTv311
    name = f"nrp_doctor_{uuid.uuid4().hex}"
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, transport=transport)  # type: ignore[arg-type]
    client.connect_timeout = TIMEOUT_S
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if broker.tls if tls is None else tls:
        client.tls_set_context(tls_context(broker.ca_file))
    return client


def _greet(client: mqtt.Client, host: str, port: int, *, tls: bool) -> Greeting:
    answered = threading.Event()
    greetings: list[Greeting] = []
    obstacles: list[str] = []
    username = client.username

    def connected(
        _client: mqtt.Client, _userdata: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            obstacles.append(refusal_of(reason, username))
        else:
            greetings.append(_greeting(properties))
        answered.set()

    def disconnected(*_: object) -> None:
        obstacles.append(CLOSED)
        answered.set()

    client.on_connect = connected
    client.on_disconnect = disconnected
    try:
        client.connect(host, port)
    except (OSError, ValueError, mqtt.WebsocketConnectionError) as error:
        number = f"[Errno {getattr(error, 'errno', None)}] "
        raise BusUnavailable(obstacle_of(error, host, tls=tls).removeprefix(number)) from error
    client.loop_start()
    try:
        if not answered.wait(TIMEOUT_S):
            raise BusUnavailable(f"no answer within {TIMEOUT_S:g} s")
    finally:
        client.on_disconnect = None
        client.disconnect()
        client.loop_stop()
    if not greetings:
        raise BusUnavailable(obstacles[0])
    return greetings[0]


def _greeting(properties: Properties | None) -> Greeting:
    def said(name: str) -> int | None:
        value: int | None = getattr(properties, name, None)
        return value

    retains = said("RetainAvailable")
    return Greeting(said("MaximumPacketSize"), said("MaximumQoS"), None if retains is None else bool(retains))
