"""A machine that only runs a launcher: it reaches the broker and the storage, and nobody reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, log_of, record_of, started
from tests.waiting import wait_until

LISTENING = "0A"
ESTABLISHED = "01"


@pytest.fixture(scope="module")
def elsewhere(installation: Installation, bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    """A launcher in a network of its own, into which the first machine's broker and gateway reach as well."""
    machine = bring_up(
        {
            "NRP_MQTT_BROKER_ADDRESS": "broker.lab:1883",
            "NRP_STORAGE_URL": "http://gateway.lab:8090",
            "NRP_LAUNCHER_NAME": "lab-2",
            "NRP_METRICS_HOST": "127.0.0.1",
        }
    )
    key = installation.execute(installation.containers("gateway")[0], "cat", "/run/secrets/nrp/secret_key")
    machine.compose("run", "--rm", "-T", "secrets", "secret_key", text=key)
    machine.compose("up", "--no-start", "--no-build", "--no-deps", "launcher")
    network = f"{machine.project}_default"
    for service in ("broker", "gateway"):
        container = installation.containers(service)[0]
        installation.engine.docker("network", "connect", "--alias", f"{service}.lab", network, container)
    machine.compose("up", "--detach", "--no-build", "--no-deps", "launcher")
    machine.await_health()
    yield machine
    for service in ("broker", "gateway"):
        installation.engine.docker("network", "disconnect", network, installation.containers(service)[0])
    machine.down("--volumes", "--timeout", "5")


def connections(machine: Installation, state: str) -> set[tuple[str, int, int]]:
    """Local address, local port and remote port of what is in this state."""
    table = machine.execute(machine.containers("launcher")[0], "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6")
    found = set()
    for line in table.splitlines():
        fields = line.split()
        if fields[3] == state:
            (address, port), (_, remote) = (each.split(":") for each in fields[1:3])
            found.add((address, int(port, 16), int(remote, 16)))
    return found


def test_it_runs_simulations_and_stores_their_logs(installation: Installation, elsewhere: Installation) -> None:
    installation.await_readiness()
    name = experiment(installation)
    number = started(installation, name, launcher="lab-2-1")
    assert record_of(installation, number)["launcher"] == "lab-2-1"
    assert installation.put_state(number, "stopped").json() == {"state": "stopped"}
    assert log_of(installation, record_of(installation, number))


def test_it_has_connections_to_broker_and_storage_only_and_nobody_can_connect_to_it(
    installation: Installation, elsewhere: Installation
) -> None:
    installation.await_readiness()
    number = started(installation, experiment(installation), launcher="lab-2-1")
    outgoing = {(remote, local) for _, local, remote in connections(elsewhere, ESTABLISHED) if remote in (1883, 8090)}
    assert {remote for remote, _ in outgoing} == {1883, 8090}
    ours = {
        (address, local) for address, local, remote in connections(elsewhere, ESTABLISHED) if remote not in (1883, 8090)
    }
    assert {address for address, _ in ours} <= {"0100007F"}
    assert {address for address, *_ in connections(elsewhere, LISTENING)} <= {
        "0100007F",
        "0B00007F",
    }  # and the engine's DNS
    assert installation.put_state(number, "stopped").json() == {"state": "stopped"}
    wait_until(lambda: record_of(installation, number).get("logs"))
