"""A broker that keeps to who may do what: set up by `nrp broker-access`, run with the configuration of a lab."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from typer.testing import CliRunner

from nrp_cli.main import app
from nrp_common.access import CONTROL, CONTROL_ANSWERS
from nrp_common.bus import BrokerAddress
from tests.mosquitto import MOSQUITTO
from tests.ports import free_port
from tests.waiting import wait_until

CONFIGURATION = Path(__file__).parent.parent / "deploy" / "broker" / "mosquitto.conf"

PLUGIN = "/usr/lib/mosquitto_dynamic_security.so"


def debian_plugin() -> Path:
    """Where Debian's Mosquitto has its plugin."""
    return next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))


def make_access(folder: Path, *arguments: str) -> str:
    """Run `nrp broker-access init`. Returns what it says."""
    done = CliRunner().invoke(app, ["broker-access", "init", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@dataclass(frozen=True)
class SecuredBroker:
    """A running broker.

    Attributes:
        access: the folder that was set up for it.
        port: of MQTT with TLS.
        websocket: the port of MQTT over WebSocket with TLS.
        prefix: of the topics.
    """

    access: Path
    port: int
    websocket: int
    prefix: str = ""

    def address(self, account: str) -> BrokerAddress:
        """The broker for one of the accounts: gateway, launcher, frontend or doctor."""
        username = f"nrp_{account}" + (f"@{self.prefix}" if self.prefix else "")
        password = (self.access / f"{account}.password").read_text().strip()
        return replace(self.stranger, username=username, password=password)

    @property
    def stranger(self) -> BrokerAddress:
        """The broker for who has no password."""
        return BrokerAddress("localhost", self.port, tls=True, ca_file=str(self.access / "ca.crt"))

    def settings(self, account: str) -> dict[str, object]:
        """Of a service that gets in as one of the accounts."""
        address = self.address(account)
        return {
            "mqtt_broker_address": str(address),
            "mqtt_tls": True,
            "mqtt_ca_file": address.ca_file,
            "mqtt_username": address.username,
            "mqtt_password_file": self.access / f"{account}.password",
            "mqtt_prefix": self.prefix,
        }

    @property
    def simulations(self) -> set[str]:
        """The user names of simulations that the broker lets in."""
        return self._of_simulations("clients", "listClients")

    @property
    def roles(self) -> set[str]:
        """The roles of simulations."""
        return self._of_simulations("roles", "listRoles")

    def _of_simulations(self, kind: str, command: str) -> set[str]:
        with Client(self.address("launcher")) as admin:
            listed = admin.order(command)[kind]
        return {each for each in listed if each.startswith("nrp-simulation:")}


@dataclass(frozen=True)
class PlainBroker:
    """A broker that asks for no password, and services that have one all the same."""

    address: BrokerAddress
    prefix: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def settings(self, account: str) -> dict[str, object]:
        """Of a service."""
        return {
            "mqtt_broker_address": str(self.address),
            "mqtt_username": f"nrp_{account}",
            "mqtt_password": "of no use",
            "mqtt_prefix": self.prefix,
        }


class Client:
    """A client that tells what it was allowed: MQTT 5 unless told otherwise."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
        websocket: int | None = None,
    ) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.connection: ReasonCode | None = None
        self.is_connected = False
        self._is_mqtt5 = protocol is MQTTProtocolVersion.MQTTv5
        self._answers: dict[int, list[ReasonCode]] = {}
        self._changed = threading.Condition()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            protocol=protocol,
            transport="tcp" if websocket is None else "websockets",
            reconnect_on_failure=False,
        )
        if websocket is not None:
            self._client.ws_set_options(path="/")
        if address.tls:
            self._client.tls_set_context(ssl.create_default_context(cafile=address.ca_file))
        if address.username is not None:
            self._client.username_pw_set(address.username, address.password)
        self._client.on_connect = self._connected
        self._client.on_disconnect = lambda *_: setattr(self, "is_connected", False)
        self._client.on_publish = lambda _client, _userdata, mid, reason, _properties: self._note(mid, [reason])
        self._client.on_subscribe = lambda _client, _userdata, mid, reasons, _properties: self._note(mid, reasons)
        self._client.on_message = lambda _client, _userdata, message: self.heard.append(
            (message.topic, message.payload)
        )
        try:
            self._client.connect(address.host, address.port if websocket is None else websocket)
            self._client.loop_start()
            wait_until(lambda: self.connection is not None, 5)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, _client: object, _userdata: object, _flags: object, reason: ReasonCode, _: object) -> None:
        self.is_connected = not reason.is_failure
        self.connection = reason

    def _note(self, packet: int, reasons: list[ReasonCode]) -> None:
        with self._changed:
            self._answers[packet] = reasons
            self._changed.notify_all()

    def _answer_to(self, packet: int | None) -> list[ReasonCode]:
        assert packet is not None
        with self._changed:
            assert self._changed.wait_for(lambda: packet in self._answers, 5)
            return self._answers[packet]

    def may_publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        """Publish at QoS 1. Returns whether the broker took it."""
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        return not self._answer_to(sent.mid)[0].is_failure

    def may_subscribe(self, topic_filter: str, qos: int = 1) -> bool:
        """Subscribe. Returns whether the broker took it."""
        return not self._answer_to(self._client.subscribe(topic_filter, qos)[1])[0].is_failure

    def order(self, command: str, **arguments: object) -> dict[str, Any]:
        """Give the dynamic security plugin an order; what it answers."""
        self._client.subscribe(CONTROL_ANSWERS, 1)
        mine = uuid.uuid4().hex  # answers to others come here, too
        order = {"command": command, "correlationData": mine, **arguments}
        self._client.publish(CONTROL, json.dumps({"commands": [order]}), qos=1)

        def answers() -> list[dict[str, Any]]:
            said = [json.loads(payload) for topic, payload in list(self.heard) if topic == CONTROL_ANSWERS]
            return [each for one in said for each in one["responses"] if each.get("correlationData") == mine]

        wait_until(lambda: bool(answers()))
        (answer,) = answers()
        assert "error" not in answer, answer
        data: dict[str, Any] = answer.get("data", {})
        return data


class LabBroker:
    """Debian's Mosquitto with the configuration of a lab, on free ports; may go away and come back.

    Args:
        folder: for its files.
        prefix: of the topics.
        access: what `nrp broker-access init` has made, whose folder `broker` the broker has; made when not given.
        configuration: of Mosquitto, that of a lab when not given.
    """

    def __init__(
        self, folder: Path, prefix: str = "", *, access: Path | None = None, configuration: str | None = None
    ) -> None:
        if access is None:
            access = folder / "access"
            make_access(access, "--prefix", prefix, "--host", "localhost")
        (folder / "data").mkdir()
        self.secured = SecuredBroker(access, free_port(), free_port(), prefix)
        self._configuration = folder / "mosquitto.conf"
        text = CONFIGURATION.read_text() if configuration is None else configuration
        for here, there in (
            ("listener 8883", f"listener {self.secured.port} localhost"),
            ("listener 9001", f"listener {self.secured.websocket} 127.0.0.1"),
            (PLUGIN, str(debian_plugin())),
            ("/mosquitto/access/", f"{access / 'broker'}/"),
            ("/mosquitto/data/", f"{folder / 'data'}/"),
        ):
            assert here in text, here
            text = text.replace(here, there)
        self._configuration.write_text(text + "user root\n")
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run, and return when it takes connections."""
        assert MOSQUITTO, "these tests need Mosquitto"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", self._configuration], stdout=log, stderr=log)
        wait_until(self._listens)

    def kill(self) -> None:
        """End it without any warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def hang_up(self) -> None:
        """Have it read its certificates again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(10)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("localhost", self.secured.port), timeout=1).close()
        except OSError:
            return False
        return True


@contextmanager
def lab_broker(folder: Path, prefix: str = "") -> Iterator[SecuredBroker]:
    """A broker for as long as the block lasts."""
    broker = LabBroker(folder, prefix)
    broker.start()
    try:
        yield broker.secured
    finally:
        broker.stop()


@contextmanager
def broker_in_a_container(
    folder: Path, image: str, environment: Mapping[str, str], prefix: str = ""
) -> Iterator[SecuredBroker]:
    """The same in a container, with the configuration as it is.

    Args:
        folder: for its files.
        image: of Mosquitto.
        environment: tells where the Docker engine is.
        prefix: of the topics.
    """
    access, configuration = folder / "access", folder / "mosquitto.conf"
    make_access(access, "--prefix", prefix, "--host", "localhost")
    configuration.write_text(f"{CONFIGURATION.read_text()}user root\n")
    testcontainers_config.ryuk_disabled = True  # an image that is not to be had everywhere; we clean up ourselves
    engine = {"environment": environment}
    with Network(engine) as network:  # an engine need not have one by itself
        container = (
            DockerContainer(image, engine, user="0:0", network=network)
            .with_volume_mapping(str(configuration), "/mosquitto/config/mosquitto.conf")
            .with_volume_mapping(str(access / "broker"), "/mosquitto/access", "rw")
            .with_exposed_ports(8883, 9001)
        )
        with container:
            port, websocket = (container.get_exposed_port(each) for each in (8883, 9001))
            broker = SecuredBroker(access, port, websocket, prefix)
            wait_until(lambda: _shakes_hands(broker.stranger), 60)  # the engine takes connections before the broker
            yield broker


def _shakes_hands(address: BrokerAddress) -> bool:
    try:
        context = ssl.create_default_context(cafile=address.ca_file)
        with socket.create_connection((address.host, address.port), 5) as connection:
            context.wrap_socket(connection, server_hostname=address.host).close()
    except OSError:
        return False
    return True
