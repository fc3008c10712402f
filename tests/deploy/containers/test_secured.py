"""The service with docker-compose.secured.yml: TLS, passwords, and no more rights for anybody than they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nrp_common.bus import BrokerAddress
from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, log_of, record_of, started
from tests.secured_broker import Client
from tests.waiting import wait_until

FILES = ("docker-compose.yml", "docker-compose.secured.yml")


@pytest.fixture(scope="module")
def secured(bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    installation = bring_up({"NRP_MQTT_LISTENER": "8883", "NRP_BROKER_HOSTS": "mqtt.lab.example lab-1"}, files=FILES)
    installation.up()
    yield installation
    installation.down("--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def stranger(secured: Installation, tmp_path_factory: pytest.TempPathFactory) -> BrokerAddress:
    """The broker, for who has no password."""
    authority: Path = tmp_path_factory.mktemp("access") / "ca.crt"
    authority.write_text(secured.execute(secured.containers("broker")[0], "cat", "/mosquitto/access/ca.crt"))
    return BrokerAddress("localhost", secured.mqtt[1], tls=True, ca_file=str(authority))


def account(secured: Installation, stranger: BrokerAddress, name: str) -> BrokerAddress:
    """The broker for gateway, launcher or frontend."""
    password = secured.compose(
        "run", "--rm", "-T", "--no-deps", "--entrypoint", "cat", "access", f"/secrets/access/{name}.password"
    )
    return replace(stranger, username=f"nrp_{name}", password=password.strip())


def test_an_experiment_runs_and_a_frontend_watches_it(secured: Installation, stranger: BrokerAddress) -> None:
    websocket = int(secured.websocket.rpartition(":")[2])
    with Client(account(secured, stranger, "frontend"), websocket=websocket) as frontend:
        assert frontend.may_subscribe("#")
        number = started(secured, experiment(secured))
        assert not frontend.may_publish(f"nrp_simulation/{number}/command")
        assert secured.put_state(number, "stopped").json() == {"state": "stopped"}
        assert log_of(secured, record_of(secured, number))
        topic = f"nrp_simulation/{number}/status"
        wait_until(lambda: any(heard == topic and b"stopped" in payload for heard, payload in frontend.heard))
        assert {heard.split("/")[0] for heard, _ in frontend.heard} <= {"nrp_simulation", "nrp_server"}


def test_strangers_are_not_let_in(secured: Installation, stranger: BrokerAddress) -> None:
    with Client(stranger) as client:
        assert client.connection is not None
        assert client.connection.is_failure
    with Client(replace(stranger, username="nrp_launcher", password="guessed")) as client:
        assert client.connection is not None
        assert client.connection.is_failure


def test_a_simulation_has_credentials_of_its_own_while_it_runs(secured: Installation, stranger: BrokerAddress) -> None:
    with Client(account(secured, stranger, "launcher")) as admin:

        def simulations() -> set[str]:
            return {each for each in admin.order("listClients")["clients"] if each.startswith("nrp-simulation:")}

        number = started(secured, experiment(secured))
        assert len(simulations()) == 1
        assert secured.put_state(number, "stopped").json() == {"state": "stopped"}
        wait_until(lambda: not simulations())


def test_nobody_sees_more_than_their_own_part(secured: Installation) -> None:
    def seen(service: str, folder: str) -> set[str]:
        return set(secured.execute(secured.containers(service)[0], "ls", folder).split())

    assert seen("launcher", "/run/secrets/nrp") == {"secret_key", "broker_ca.crt", "broker_password"}
    assert not {"ca.key", "launcher.password", "frontend.password"} & seen("gateway", "/run/secrets/nrp")
    assert seen("broker", "/mosquitto/access") == {
        "ca.crt", "dynamic-security.json", "health", "server.crt", "server.key",
    }  # fmt: skip
    broker = secured.inspect(secured.containers("broker")[0])
    assert (broker["Config"]["User"], broker["HostConfig"]["ReadonlyRootfs"]) == ("10001:10001", True)


def test_a_broker_that_died_lets_everybody_in_again(secured: Installation) -> None:
    number = started(secured, experiment(secured))
    secured.crash(secured.containers("broker")[0])
    secured.await_readiness()
    assert secured.put_state(number, "paused").json() == {"state": "paused"}
    assert secured.put_state(number, "stopped").json() == {"state": "stopped"}


def test_a_launcher_on_another_machine_gets_in_over_the_network(
    secured: Installation, bring_up: Callable[..., Installation]
) -> None:
    machine = bring_up(
        {
            "NRP_MQTT_BROKER_ADDRESS": "mqtt.lab.example:8883",
            "NRP_MQTT_TLS": "true",
            "NRP_MQTT_USERNAME": "nrp_launcher",
            "NRP_MQTT_PASSWORD_FILE": "/run/secrets/nrp/broker_password",
            "NRP_MQTT_CA_FILE": "/run/secrets/nrp/broker_ca.crt",
            "NRP_SIMULATION_CREDENTIALS": "required",
            "NRP_STORAGE_URL": "http://gateway.lab:8090",
            "NRP_LAUNCHER_NAME": "lab-2",
        }
    )
    launcher = secured.containers("launcher")[0]
    for secret in ("secret_key", "broker_password", "broker_ca.crt"):
        text = secured.execute(launcher, "cat", f"/run/secrets/nrp/{secret}")
        machine.compose("run", "--rm", "-T", "secrets", secret, text=text)
    machine.compose("up", "--no-start", "--no-build", "--no-deps", "launcher")
    network = f"{machine.project}_default"
    aliases = {"mqtt.lab.example": "broker", "gateway.lab": "gateway"}
    for alias, service in aliases.items():
        container = secured.containers(service)[0]
        secured.engine.docker("network", "connect", "--alias", alias, network, container)
    try:
        machine.compose("up", "--detach", "--no-build", "--no-deps", "launcher")
        machine.await_health()
        secured.await_readiness()
        number = started(secured, experiment(secured), launcher="lab-2-1")
        assert secured.put_state(number, "stopped").json() == {"state": "stopped"}
        assert log_of(secured, record_of(secured, number))
    finally:
        for service in aliases.values():
            secured.engine.docker("network", "disconnect", network, secured.containers(service)[0])
