"""The profile `postgresql`: several gateways that share a catalogue."""

from __future__ import annotations

import requests

from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, record_of, started
from tests.waiting import wait_until


def states(installation: Installation, number: int) -> list[str]:
    """What each gateway says."""
    return [requests.get(f"{url}/simulation/{number}/state", timeout=10).json()["state"] for url in installation.urls]


def test_gateways_tell_the_same(scaled: Installation) -> None:
    scaled.await_readiness()
    number = started(scaled, experiment(scaled))
    wait_until(lambda: states(scaled, number) == ["started", "started"])
    answer = requests.put(f"{scaled.urls[1]}/simulation/{number}/state", json={"state": "stopped"}, timeout=40)
    assert answer.json() == {"state": "stopped"}
    wait_until(lambda: states(scaled, number) == ["stopped", "stopped"])


def test_simulations_run_on_while_the_database_is_away(scaled: Installation) -> None:
    scaled.await_readiness()
    number = started(scaled, experiment(scaled))
    scaled.crash(scaled.containers("postgresql")[0])
    scaled.await_health()
    assert record_of(scaled, number)["state"] == "started"
    assert scaled.put_state(number, "stopped").json() == {"state": "stopped"}


def test_it_is_enough_that_one_gateway_is_there(scaled: Installation) -> None:
    scaled.await_readiness()
    number = started(scaled, experiment(scaled))
    first, second = scaled.containers("gateway")
    scaled.engine.docker("stop", second)
    left = next(url for url in scaled.urls if answers(url))
    answer = requests.put(f"{left}/simulation/{number}/state", json={"state": "stopped"}, timeout=40)
    assert answer.json() == {"state": "stopped"}
    scaled.engine.docker("start", second)
    scaled.await_health()
    assert scaled.inspect(first)["State"]["Running"]
    wait_until(lambda: all(map(answers, scaled.urls)), 30)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
