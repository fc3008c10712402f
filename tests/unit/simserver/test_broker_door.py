"""The door to a secured broker for programs that know no password."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from nrp_common.bus import BrokerAddress
from nrp_simserver.server.broker_door import BrokerDoor, NotMQTT, with_credentials


def connect_packet(protocol: MQTTProtocolVersion, *, will: bool, username: str | None) -> bytes:
    """What paho says first."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="some", protocol=protocol)
    if will:
        client.will_set("gone", b"w" * 300, qos=1, retain=True)
    if username is not None:
        client.username_pw_set(username, "old password")
    with socket.create_server(("127.0.0.1", 0)) as server:
        client.connect(*server.getsockname(), keepalive=17)
        accepted, _ = server.accept()
        client.loop_write()
        packet = accepted.recv(65536)
        accepted.close()
    client.disconnect()
    return packet


@pytest.mark.parametrize("protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
@pytest.mark.parametrize("will", [False, True])
@pytest.mark.parametrize("username", [None, "old"])
def test_credentials_are_put_in_place_of_those_that_were_there(
    protocol: MQTTProtocolVersion, will: bool, username: str | None
) -> None:
    original = connect_packet(protocol, will=will, username=username)
    changed = with_credentials(original, "new", "secret")
    assert changed.endswith(b"\0\x03new\0\x06secret")
    assert b"old" not in changed
    assert with_credentials(changed, None, None) == connect_packet(protocol, will=will, username=None)


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_packet_that_is_cut_short_is_no_packet(cut: int) -> None:
    with pytest.raises(NotMQTT):
        with_credentials(connect_packet(MQTTProtocolVersion.MQTTv311, will=True, username=None)[:-cut], "new", "secret")


@pytest.fixture
def door() -> Iterator[BrokerDoor]:
    door = BrokerDoor(BrokerAddress("127.0.0.1", 1, "user", "password"))
    yield door
    door.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\xff", b"\x10\xff\xff\xff\x7f"])
def test_who_speaks_no_mqtt_is_sent_away(door: BrokerDoor, said: bytes) -> None:
    host, _, port = door.address.partition(":")
    with socket.create_connection((host, int(port)), 5) as client:
        client.sendall(said)
        with suppress(ConnectionResetError):  # what was not read yet is lost
            assert client.recv(1) == b""


def test_it_is_closed_when_the_broker_is_away(door: BrokerDoor) -> None:
    host, _, port = door.address.partition(":")
    with socket.create_connection((host, int(port)), 5) as client:
        client.sendall(connect_packet(MQTTProtocolVersion.MQTTv311, will=False, username=None))
        assert client.recv(1) == b""
