"""A broker as the manifests have it, and its clients."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.kubernetes.manifests import MANIFESTS
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until


def manifest_broker(folder: Path, passwords: Mapping[str, str]) -> Mosquitto:
    """A Mosquitto as the manifests have it, but for the places of its files and ports; not running yet.

    Args:
        folder: for its files.
        passwords: of its users.
    """
    base = MANIFESTS / "base"
    _make_passwords(folder, passwords)
    configuration = (base / "mosquitto.conf").read_text()
    for text, own in {
        "listener 1883\n": "user root\nlistener {port} 127.0.0.1\n",
        "listener 9001\nprotocol websockets\n": "",
        "/run/mosquitto": str(folder),
        "/mosquitto/config/access.acl": str(base / "access.acl"),
        "/mosquitto/data": str(folder),
    }.items():
        assert text in configuration
        configuration = configuration.replace(text, own)
    return Mosquitto(folder, configuration)


def _make_passwords(folder: Path, passwords: Mapping[str, str]) -> None:
    """What the init container does."""
    documents = yaml.safe_load_all((MANIFESTS / "base" / "broker.yaml").read_text())
    pod = next(each["spec"]["template"]["spec"] for each in documents if each["kind"] == "StatefulSet")
    *shell, script = pod["initContainers"][0]["command"]
    environment = {f"{name.upper()}_PASSWORD": password for name, password in passwords.items()}
    script = script.replace("/run/mosquitto", str(folder))
    subprocess.run([*shell, script], check=True, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True)


@contextmanager
def connected(broker: Mosquitto, name: str = "", password: str = "") -> Iterator[tuple[Client, list[MQTTMessage]]]:
    """A client of this name, "" for none, that subscribes to everything; and what reaches it."""
    client, seen = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5), []
    if name:
        client.username_pw_set(name, password)
    subscribed: list[object] = []
    client.on_message = lambda _client, _data, message: seen.append(message)
    client.on_subscribe = lambda *arguments: subscribed.append(arguments)
    client.connect(broker.address.host, broker.address.port)
    client.loop_start()
    wait_until(client.is_connected)
    client.subscribe("#", qos=1)
    wait_until(lambda: subscribed)
    try:
        yield client, seen
    finally:
        client.disconnect()
        client.loop_stop()
