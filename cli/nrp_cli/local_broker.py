"""A broker for a single machine, bound to loopback: Mosquitto when installed, else the one that comes with `nrp`.

Both serve MQTT 3.1.1 and 5 over TCP and MQTT 3.1.1 over WebSocket. Mosquitto does both versions on one port; the
embedded one (package iotcore, which is rumqttd) wants a port for each. Run as a module this is the embedded broker's
process: `python -m nrp_cli.local_broker <configuration.toml>`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nrp_cli.ports import choose_port
from nrp_common.errors import SettingsError

LOOPBACK = "127.0.0.1"

MQTT_PORT = 1883
MQTT5_PORT = 1885
WEBSOCKET_PORT = 9001

LARGEST_PAYLOAD = 16 * 1024 * 1024
"""In bytes: a camera frame in full resolution fits; a mistake does not fill the memory."""

MOSQUITTO_CONFIGURATION = """\
listener {mqtt} {host}
listener {websocket} {host}
protocol websockets
allow_anonymous true
# Without it a small answer waits 40 ms for the acknowledgement of the packet before.
set_tcp_nodelay true
max_packet_size {largest}
max_queued_messages 10000
max_inflight_messages 200
persistence false
log_dest stderr
log_type error
log_type warning
"""

EMBEDDED_LISTENER = """\
[{section}.1]
name = "{section}"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[{section}.1.connections]
connection_timeout_ms = 60000
max_payload_size = {largest}
max_inflight_count = 500
dynamic_filters = true
"""

# Of its defaults, the segments would take 1.1 GB and the packet count would deliver 200 retained messages only.
EMBEDDED_CONFIGURATION = """\
id = 0
[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 10000
max_segment_size = 1048576
max_segment_count = 4
"""


@dataclass(frozen=True)
class PortWishes:
    """The ports asked for, None where the usual one or the next free one will do."""

    mqtt: int | None = None
    mqtt5: int | None = None
    websocket: int | None = None


@dataclass(frozen=True)
class LocalBroker:
    """A broker to be started.

    Attributes:
        command: starts it in the foreground.
        mqtt_port: MQTT 3.1.1 over TCP.
        mqtt5_port: MQTT 5 over TCP; the same as `mqtt_port` where one serves both.
        websocket_port: MQTT 3.1.1 over WebSocket.
    """

    command: Sequence[str]
    mqtt_port: int
    mqtt5_port: int
    websocket_port: int

    @property
    def ports(self) -> set[int]:
        """All that it listens on."""
        return {self.mqtt_port, self.mqtt5_port, self.websocket_port}


def find_mosquitto() -> str | None:
    """The Mosquitto program, None when there is none. Debian keeps it where only root's PATH looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def plan_broker(kind: str, wishes: PortWishes, folder: Path) -> LocalBroker:
    """Choose ports and write the configuration.

    Args:
        kind: `mosquitto`, `embedded`, or `auto`: Mosquitto when it is installed.
        wishes: the ports asked for.
        folder: an existing folder for the configuration.

    Raises:
        SettingsError: a port asked for is taken, or Mosquitto is not installed.
    """
    mosquitto = find_mosquitto()
    if kind == "auto":
        kind = "mosquitto" if mosquitto else "embedded"
    if kind == "mosquitto":
        if mosquitto is None:
            raise SettingsError("There is no mosquitto on the PATH: install it, or use the embedded broker")
        return _plan_mosquitto(mosquitto, wishes, folder)
    return _plan_embedded(wishes, folder)


def _port(wish: int | None, default: int, taken: set[int]) -> int:
    port = choose_port(LOOPBACK, default if wish is None else wish, strict=wish is not None, taken=taken)
    taken.add(port)
    return port


def _plan_mosquitto(program: str, wishes: PortWishes, folder: Path) -> LocalBroker:
    taken: set[int] = set()
    mqtt = _port(wishes.mqtt if wishes.mqtt is not None else wishes.mqtt5, MQTT_PORT, taken)
    if wishes.mqtt5 not in (None, 0, mqtt):
        raise SettingsError(
            "Mosquitto serves MQTT 3.1.1 and 5 on one port: ask for the same --mqtt-port and --mqtt5-port"
        )
    websocket = _port(wishes.websocket, WEBSOCKET_PORT, taken)
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        MOSQUITTO_CONFIGURATION.format(host=LOOPBACK, mqtt=mqtt, websocket=websocket, largest=LARGEST_PAYLOAD)
    )
    return LocalBroker([program, "-c", str(configuration)], mqtt, mqtt, websocket)


def _plan_embedded(wishes: PortWishes, folder: Path) -> LocalBroker:
    taken: set[int] = set()
    ports = {
        "v4": _port(wishes.mqtt, MQTT_PORT, taken),
        "v5": _port(wishes.mqtt5, MQTT5_PORT, taken),
        "ws": _port(wishes.websocket, WEBSOCKET_PORT, taken),
    }
    listeners = [
        EMBEDDED_LISTENER.format(section=section, host=LOOPBACK, port=port, largest=LARGEST_PAYLOAD)
        for section, port in ports.items()
    ]
    configuration = folder / "embedded_broker.toml"
    configuration.write_text(EMBEDDED_CONFIGURATION + "".join(listeners))
    command = [sys.executable, "-m", "nrp_cli.local_broker", str(configuration)]
    return LocalBroker(command, ports["v4"], ports["v5"], ports["ws"])


if __name__ == "__main__":
    import logging

    from iotcore import IotCoreBroker

    logging.getLogger("rumqttd.router").setLevel(logging.CRITICAL)  # it logs each message that it carries as an error
    IotCoreBroker(config_path=sys.argv[1]).run_forever()
