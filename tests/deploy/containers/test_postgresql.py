"""The profile `postgresql`: several gateways that share a catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests

from tests.deploy.containers import debian_images
from tests.deploy.containers.engine import Engine
from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, record_of, started
from tests.waiting import wait_until

IMAGE = "nrp-test/postgresql"


@pytest.fixture(scope="module")
def shared(engine: Engine, bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    """With two gateways."""
    try:
        image = debian_images.make(debian_images.postgresql(), IMAGE, engine.command)
    except debian_images.NoImages as reason:
        pytest.skip(str(reason))
    settings = {
        "COMPOSE_PROFILES": "postgresql",
        "NRP_POSTGRESQL_IMAGE": image,
        "NRP_CATALOGUE_URL_FILE": "/run/secrets/nrp/catalogue_url",
    }
    installation = bring_up(settings, gateways=2)
    installation.up(profiles=("postgresql",), gateway=2)
    yield installation
    installation.down("--volumes", "--timeout", "5")


def states(installation: Installation, number: int) -> list[str]:
    """What each gateway says."""
    return [requests.get(f"{url}/simulation/{number}/state", timeout=10).json()["state"] for url in installation.urls]


def test_gateways_tell_the_same(shared: Installation) -> None:
    shared.await_readiness()
    number = started(shared, experiment(shared))
    wait_until(lambda: states(shared, number) == ["started", "started"])
    answer = requests.put(f"{shared.urls[1]}/simulation/{number}/state", json={"state": "stopped"}, timeout=40)
    assert answer.json() == {"state": "stopped"}
    wait_until(lambda: states(shared, number) == ["stopped", "stopped"])


def test_simulations_run_on_while_the_database_is_away(shared: Installation) -> None:
    shared.await_readiness()
    number = started(shared, experiment(shared))
    shared.crash(shared.containers("postgresql")[0])
    shared.await_health()
    assert record_of(shared, number)["state"] == "started"
    assert shared.put_state(number, "stopped").json() == {"state": "stopped"}


def test_it_is_enough_that_one_gateway_is_there(shared: Installation) -> None:
    shared.await_readiness()
    number = started(shared, experiment(shared))
    first, second = shared.containers("gateway")
    shared.engine.docker("stop", second)
    left = next(url for url in shared.urls if answers(url))
    answer = requests.put(f"{left}/simulation/{number}/state", json={"state": "stopped"}, timeout=40)
    assert answer.json() == {"state": "stopped"}
    shared.engine.docker("start", second)
    shared.await_health()
    assert shared.inspect(first)["State"]["Running"]
    wait_until(lambda: all(map(answers, shared.urls)), 30)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
