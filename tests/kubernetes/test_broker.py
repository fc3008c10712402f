"""The broker of the manifests lets everybody do what they need, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import yaml
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.kubernetes.broker import connected, manifest_broker
from tests.kubernetes.manifests import MANIFESTS
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until

PASSWORDS = {"gateway": "g-secret", "launcher": "l-secret", "": ""}

SENTINEL = "nrp_simulation/0/status"
"""Everybody may read it, so whoever has it has all that was said before and was for them."""


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    mosquitto = manifest_broker(tmp_path_factory.mktemp("broker"), PASSWORDS)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


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
    mosquitto: Mosquitto, speaker: str, topic: str, listener: str, reaches: bool
) -> None:
    with (
        connected(mosquitto, listener, PASSWORDS[listener]) as (_, seen),
        connected(mosquitto, speaker, PASSWORDS[speaker]) as (client, _own),
    ):
        published = client.publish(topic, b"said", qos=1)
        published.wait_for_publish(5)
        with connected(mosquitto, "launcher", PASSWORDS["launcher"]) as (trusted, _):
            trusted.publish(SENTINEL, b"over", qos=1).wait_for_publish(5)
        wait_until(lambda: any(each.topic == SENTINEL for each in seen))
        assert any(each.topic == topic and each.payload == b"said" for each in seen) is reaches


@pytest.mark.parametrize(("name", "password"), [("gateway", "l-secret"), ("root", "x")])
def test_who_gives_a_wrong_name_or_password_is_turned_away(mosquitto: Mosquitto, name: str, password: str) -> None:
    client, codes = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5), []
    client.username_pw_set(name, password)
    client.on_connect = lambda _client, _data, _flags, code, _properties: codes.append(code)
    client.connect(mosquitto.address.host, mosquitto.address.port)
    client.loop_start()
    wait_until(lambda: codes)
    client.disconnect()
    client.loop_stop()
    assert codes[0].is_failure


def test_probe_of_the_broker_may_read_what_it_looks_at(mosquitto: Mosquitto) -> None:
    address = mosquitto.address
    documents = yaml.safe_load_all((MANIFESTS / "base" / "broker.yaml").read_text())
    pod = next(each["spec"]["template"]["spec"] for each in documents if each["kind"] == "StatefulSet")
    command = pod["containers"][0]["livenessProbe"]["exec"]["command"]
    done = subprocess.run([*command, "-h", address.host, "-p", str(address.port)], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
