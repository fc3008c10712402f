"""A way to the broker for a program that knows neither TLS nor passwords, as the original nrp-core.

It connects to a port on loopback; what it says there is passed on to the broker with the credentials of the simulation.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from nrp_common.bus import BrokerAddress, tls_context

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"

CONNECTING_S: Final = 5.0

CHUNK: Final = 65536

MOST_IN_CONNECT: Final = 1_000_000
"""In bytes: what comes first is small, with a last will at most."""

CONNECT: Final = 0x10
"""The first byte of the packet that every client sends first (MQTT 3.1.1, 3.1.1)."""

WITH_PROPERTIES: Final = 5
"""The protocol level from which on packets have properties."""

WILL: Final = 0x04
USERNAME_AND_PASSWORD: Final = 0xC0
"""Flags of that packet (3.1.2.3)."""


class NotMQTT(ValueError):
    """What a client says first is no MQTT."""


class BrokerDoor:
    """A port on loopback, for processes of the user that this one runs as.

    Args:
        broker: where it leads, with the credentials.

    Attributes:
        address: `host:port` of the door.
    """

    def __init__(self, broker: BrokerAddress) -> None:
        self._broker = broker
        self._listener = socket.create_server((LOOPBACK, 0))
        self.address = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._welcome, name="broker door", daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more; who is in stays."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _welcome(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._lead, args=(client,), name="broker door", daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        try:
            if _user_of(client) != os.getuid():
                raise PermissionError("it is another user's")
            client.settimeout(CONNECTING_S)
            hello = with_credentials(_first_packet(client), self._broker.username, self._broker.password)
            broker = self._reach_broker()
        except (OSError, NotMQTT) as error:
            log.warning("A connection to the broker's door is refused: %s", error)
            client.close()
            return
        broker.sendall(hello)
        for each in (client, broker):
            each.settimeout(None)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_pass_on, args=(broker, client), name="broker door", daemon=True).start()
        _pass_on(client, broker)

    def _reach_broker(self) -> socket.socket:
        host = self._broker.host
        connection = socket.create_connection((host, self._broker.port), CONNECTING_S)
        if not self._broker.tls:
            return connection
        return tls_context(self._broker.ca_file).wrap_socket(connection, server_hostname=host)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while received := source.recv(CHUNK):
            target.sendall(received)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def _user_of(client: socket.socket) -> int | None:
    """Whose the other end of a loopback connection is, by user id; None when that is not known."""
    host, port = client.getpeername()
    address = f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == address:
            return int(fields[7])
    return None


# -- the packet that a client sends first ----------------------------------------------------------------------------


def _first_packet(client: socket.socket) -> bytes:
    header = _exactly(client, 1)
    while len(header) == 1 or header[-1] & 0x80:
        if len(header) > 4:
            raise NotMQTT("it does not speak MQTT")
        header += _exactly(client, 1)
    length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(header[1:]))
    if header[0] != CONNECT or length > MOST_IN_CONNECT:
        raise NotMQTT("it does not speak MQTT")
    return header + _exactly(client, length)


def _exactly(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = client.recv(size - len(received))
        if not part:
            raise NotMQTT("it says nothing")
        received += part
    return received


def with_credentials(packet: bytes, username: str | None, password: str | None) -> bytes:
    """A CONNECT packet (MQTT 3.1.1 or 5, section 3.1) with other credentials than it had, if it had any.

    Raises:
        NotMQTT: it is no such packet.
    """
    try:
        _, body = _after_number(packet, 1)
        _, level_at = _field(packet, body)
        level, flags = packet[level_at], packet[level_at + 1]
        at = level_at + 4  # after the keepalive
        at = _after_properties(packet, at, level)
        _, at = _field(packet, at)  # the client's id
        if flags & WILL:
            at = _after_properties(packet, at, level)
            _, at = _field(packet, at)
            _, at = _field(packet, at)
    except IndexError as error:
        raise NotMQTT("what it says first is cut short") from error
    flags = flags & ~USERNAME_AND_PASSWORD & 0xFF
    added = b""
    if username is not None:
        flags |= USERNAME_AND_PASSWORD
        added = _as_field(username) + _as_field(password or "")
    kept = packet[body : level_at + 1] + bytes([flags]) + packet[level_at + 2 : at] + added
    return bytes([CONNECT]) + _as_number(len(kept)) + kept


def _after_properties(packet: bytes, at: int, level: int) -> int:
    if level < WITH_PROPERTIES:
        return at
    length, at = _after_number(packet, at)
    return at + length


def _after_number(packet: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where what follows begins."""
    value = place = 0
    while True:
        value |= (packet[at] & 0x7F) << place
        place += 7
        at += 1
        if not packet[at - 1] & 0x80:
            return value, at


def _field(packet: bytes, at: int) -> tuple[bytes, int]:
    """A field that says how long it is, and where what follows begins."""
    end = at + 2 + (packet[at] << 8 | packet[at + 1])
    if end > len(packet):
        raise IndexError(end)
    return packet[at + 2 : end], end


def _as_field(text: str) -> bytes:
    content = text.encode()
    return struct.pack("!H", len(content)) + content


def _as_number(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        encoded.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(encoded)
