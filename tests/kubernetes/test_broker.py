"""The broker of the manifests lets everybody do what they need, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.kubernetes.manifests import MANIFESTS
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until

PASSWORDS = {"gateway": "g-secret", "launcher": "l-secret"}

SENTINEL = "nrp_simulation/0/status"
"""Everybody may read it, so whoever has it has all that was said before and was for them."""


@pytest.fixture(scope="module")
def manifest_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A Mosquitto as the manifests have it, but for the places of its files and ports."""
    folder, base = tmp_path_factory.mktemp("broker"), MANIFESTS / "base"
    _make_passwords(folder)
    configuration = (base / "mosquitto.conf").read_text()
    websocket = "listener 9001\nprotocol websockets\n"
    assert websocket in configuration
    for text, own in {
        "listener 1883\n": "user root\nlistener {port} 127.0.0.1\n",
        websocket: "",
        "/run/mosquitto": str(folder),
        "/mosquitto/config/access.acl": str(base / "access.acl"),
        "/mosquitto/data": str(folder),
    }.items():
        assert text in configuration
        configuration = configuration.replace(text, own)
    mosquitto = Mosquitto(folder, configuration)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


def _make_passwords(folder: Path) -> None:
    """What the init container does."""
    documents = yaml.safe_load_all((MANIFESTS / "base" / "broker.yaml").read_text())
    pod = next(each["spec"]["template"]["spec"] for each in documents if each["kind"] == "StatefulSet")
    *shell, script = pod["initContainers"][0]["command"]
    environment = {f"{name.upper()}_PASSWORD": password for name, password in PASSWORDS.items()}
    script = script.replace("/run/mosquitto", str(folder))
    subprocess.run([*shell, script], check=True, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True)


@contextmanager
def connected(broker: Mosquitto, name: str) -> Iterator[tuple[Client, list[MQTTMessage]]]:
    """A client of this name, "" for none, that subscribes to everything; and what reaches it."""
    client, seen = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5), []
    if name:
        client.username_pw_set(name, PASSWORDS[name])
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


@pytest.mark.parametrize(
    ("speaker", "topic", "listener", "reaches"),
    [
        # Frontends read what they need, and change nothing.
        ("launcher", "nrp_simulation/7/status", "", True),
        ("launcher", "nrp_simulation/7/data/camera", "", True),
        ("launcher", "nrp_server/abc/presence", "", True),
        ("gateway", "nrp_launcher/lab/launch", "", False),
        ("launcher", "nrp_gateway/abc/reply", "", False),
        ("launcher", "nrp_launcher/lab/presence", "", False),
        ("", "nrp_simulation/7/command", "launcher", False),
        ("", "nrp_simulation/7/lifecycle", "gateway", False),
        ("", "nrp_launcher/lab/launch", "launcher", False),
        ("", "nrp_gateway/abc/reply", "gateway", False),
        ("", "anything", "gateway", False),
        # Gateways command and ask, launchers and simulations obey, tell and answer.
        ("gateway", "nrp_simulation/7/command", "launcher", True),
        ("gateway", "nrp_launcher/lab/launch", "launcher", True),
        ("gateway", "nrp_simulation/7/lifecycle", "launcher", True),
        ("launcher", "nrp_launcher/lab/presence", "gateway", True),
        ("launcher", "nrp_simulation/7/lifecycle", "gateway", True),
        ("launcher", "nrp_gateway/abc/reply", "gateway", True),
        ("launcher", "nrp_gateway/abc/reply", "launcher", False),
        ("gateway", "other/topic", "launcher", False),
    ],
)
def test_what_is_said_reaches_whom_it_is_for(
    manifest_broker: Mosquitto, speaker: str, topic: str, listener: str, reaches: bool
) -> None:
    with connected(manifest_broker, listener) as (_, seen), connected(manifest_broker, speaker) as (client, _own):
        published = client.publish(topic, b"said", qos=1)
        published.wait_for_publish(5)
        with connected(manifest_broker, "launcher") as (trusted, _):
            trusted.publish(SENTINEL, b"over", qos=1).wait_for_publish(5)
        wait_until(lambda: any(each.topic == SENTINEL for each in seen))
        assert any(each.topic == topic and each.payload == b"said" for each in seen) is reaches


@pytest.mark.parametrize(("name", "password"), [("gateway", "l-secret"), ("root", "x")])
def test_who_gives_a_wrong_name_or_password_is_turned_away(
    manifest_broker: Mosquitto, name: str, password: str
) -> None:
    client, codes = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5), []
    client.username_pw_set(name, password)
    client.on_connect = lambda _client, _data, _flags, code, _properties: codes.append(code)
    client.connect(manifest_broker.address.host, manifest_broker.address.port)
    client.loop_start()
    wait_until(lambda: codes)
    client.disconnect()
    client.loop_stop()
    assert codes[0].is_failure


def test_probe_of_the_broker_may_read_what_it_looks_at(manifest_broker: Mosquitto) -> None:
    address = manifest_broker.address
    documents = yaml.safe_load_all((MANIFESTS / "base" / "broker.yaml").read_text())
    pod = next(each["spec"]["template"]["spec"] for each in documents if each["kind"] == "StatefulSet")
    command = pod["containers"][0]["livenessProbe"]["exec"]["command"]
    done = subprocess.run([*command, "-h", address.host, "-p", str(address.port)], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
