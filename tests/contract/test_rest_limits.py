"""Limits over REST: what a launch asks for, how many simulations an owner may have, and warnings to idle ones."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

import pytest

from nrp_common.lifecycle import SimulationState
from nrp_common.messages import IDLE, IdleWarning, Limits, Progress, TaskDone
from tests.fakes import FakeLauncher
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until

ASKED = {"realTime": 60, "simulatedTime": 7.5, "memoryMB": 300, "cpuTime": 30, "processes": 20, "diskMB": 100}

NONE = dict.fromkeys(ASKED)


# -- limits of a launch ----------------------------------------------------------------------------------------------


def test_limits_reach_the_launcher_and_are_in_the_record(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo", "limits": ASKED})
    assert answer.status_code == 201
    assert answer.get_json()["limits"] == ASKED
    assert launcher.launches[-1].wishes.limits == Limits(
        real_time=60, simulated_time=7.5, memory_mb=300, cpu_time=30, processes=20, disk_mb=100
    )


@pytest.mark.parametrize("limits", [{}, {"limits": {}}, {"limits": {"memoryMB": None}}])
def test_launch_that_asks_for_none_has_those_of_the_launcher(
    gateway: RunningGateway, launcher: FakeLauncher, limits: dict[str, Any]
) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo", **limits})
    assert answer.get_json()["limits"] == NONE
    assert launcher.launches[-1].wishes.limits == Limits()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memoryMB": 0}, "limits.memoryMB: "),
        ({"memoryMB": 1.5}, "limits.memoryMB: "),
        ({"realTime": -1}, "limits.realTime: "),
        ({"realTime": "60"}, "limits.realTime: "),
        ({"cpuTime": 0}, "limits.cpuTime: "),
        ({"processes": True}, "limits.processes: "),
        ({"diskMB": 2**31}, "limits.diskMB: "),
        ({"memory": 100}, "limits.memory: "),
        ([], "limits: "),
    ],
)
def test_wrong_limits_are_400_that_names_the_field(
    gateway: RunningGateway, launcher: FakeLauncher, limits: object, message: str
) -> None:
    before = len(launcher.launches)
    answer = gateway.post("/simulation", {"experimentID": "demo", "limits": limits})
    assert (answer.status_code, answer.get_json()["type"]) == (400, "Client error")
    assert answer.get_json()["message"].startswith(message)
    assert len(launcher.launches) == before


def test_limits_of_a_queued_launch_outlive_the_gateway(installation: Installations) -> None:
    launcher, gateway = installation.launcher(capacity=1), installation.gateway()
    gateway.await_launcher()
    first = gateway.launch()
    queued = gateway.post("/simulation", {"experimentID": "demo", "queue": True, "limits": ASKED}).get_json()
    assert (queued["queuePosition"], queued["limits"]) == (1, ASKED)
    installation.end(gateway)
    launcher.simulations[first].end(SimulationState.STOPPED)
    launcher.announce()
    restarted = installation.gateway()
    restarted.await_state(queued["simulationID"], "paused")
    assert launcher.launches[-1].wishes.limits.memory_mb == 300


# -- simulations of an owner -----------------------------------------------------------------------------------------


class Laboratory:
    """Gateways that share a catalogue, where an owner may have two simulations at once."""

    def __init__(self, installation: Installations, catalogue_url: str) -> None:
        self._catalogue_url = catalogue_url
        self.launcher = installation.launcher()
        self._storage = installation.storage()
        self._storage.users |= {"token-ann": "ann", "token-bob": "bob"}
        self._installation = installation
        self.gateway = self.another_gateway()

    def another_gateway(self) -> RunningGateway:
        gateway = self._installation.gateway(
            storage_url=self._storage.url,
            authentication="storage",
            secret_key="s",
            simulations_per_owner=2,
            catalogue_url=self._catalogue_url,
        )
        gateway.await_launcher()
        return gateway

    def ask(self, owner: str = "ann", *, gateway: RunningGateway | None = None, **fields: Any) -> Any:
        body = {"experimentID": "demo", **fields}
        return (gateway or self.gateway).post("/simulation", body, token=f"token-{owner}")

    def end(self, simulation_id: int) -> None:
        self.launcher.simulations[simulation_id].end(SimulationState.STOPPED)
        self.gateway.await_state(simulation_id, "stopped", token="token-ann")


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def laboratory(installation: Installations, request: pytest.FixtureRequest) -> Laboratory:
    is_postgresql = request.param == "PostgreSQL"
    url = request.getfixturevalue("postgresql").database() if is_postgresql else ""
    return Laboratory(installation, url)


def test_owner_with_as_many_as_may_be_is_409_that_says_the_limit(laboratory: Laboratory) -> None:
    first = laboratory.ask().get_json()["simulationID"]
    assert laboratory.ask().status_code == 201
    refused = laboratory.ask()
    assert (refused.status_code, refused.get_json()["type"]) == (409, "Client error")
    assert refused.get_json()["message"].startswith(
        "'ann' has 2 simulations, and no owner may have more at once (limit NRP_SIMULATIONS_PER_OWNER)"
    )
    assert int(refused.headers["Retry-After"]) > 0
    assert laboratory.ask("bob").status_code == 201
    laboratory.end(first)
    assert laboratory.ask().status_code == 201
    assert len(laboratory.launcher.launches) == 4


def test_refused_launch_leaves_no_record(laboratory: Laboratory) -> None:
    for _ in range(3):
        laboratory.ask()
    assert len(laboratory.gateway.get("/simulation").get_json()) == 2


def test_gateways_count_together_however_many_ask_at_once(laboratory: Laboratory) -> None:
    gateways = [laboratory.gateway, laboratory.another_gateway()]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: statuses.append(laboratory.ask(gateway=gateways[n % 2]).status_code))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] * 2 + [409] * 6


def test_queued_launch_waits_until_its_owner_may_have_one_more(laboratory: Laboratory) -> None:
    first = laboratory.ask().get_json()["simulationID"]
    laboratory.ask()
    waiting = laboratory.ask(queue=True).get_json()
    assert (waiting["state"], waiting["queuePosition"]) == ("created", 1)
    assert laboratory.ask("bob", queue=True).get_json()["state"] == "paused"  # passes by
    laboratory.end(first)
    laboratory.gateway.await_state(waiting["simulationID"], "paused", token="token-ann")


def test_launch_that_no_launcher_takes_does_not_count(laboratory: Laboratory) -> None:
    laboratory.launcher.capacity = 0
    for _ in range(3):
        assert laboratory.ask().status_code == 409
    laboratory.launcher.behave()
    laboratory.launcher.capacity = 9
    assert laboratory.ask().status_code == 201


# -- idle simulations ------------------------------------------------------------------------------------------------


def test_record_says_when_an_idle_simulation_will_be_stopped(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    simulation_id = gateway.launch()
    topic = gateway.topics.status(simulation_id)

    def stops_at() -> str | None:
        answer: str | None = gateway.get(f"/simulation/{simulation_id}").get_json()["stopsAt"]
        return answer

    assert stops_at() is None
    soon = 4_000_000_000.5
    launcher.bus.publish(topic, Progress(progress=IdleWarning(subtask="in 60 s", stops_at=soon)))
    wait_until(lambda: stops_at() is not None)
    told = stops_at()
    assert told is not None
    assert datetime.fromisoformat(told).timestamp() == soon
    launcher.bus.publish(topic, Progress(progress=TaskDone(task=IDLE)))
    wait_until(lambda: stops_at() is None)


def test_warning_that_nobody_took_back_is_not_told_for_ever(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    overdue, ended = gateway.launch(), gateway.launch()
    for simulation_id, stops_at in ((overdue, 1000.0), (ended, 4e9)):
        warning = Progress(progress=IdleWarning(stops_at=stops_at))
        launcher.bus.publish(gateway.topics.status(simulation_id), warning)
    wait_until(lambda: gateway.get(f"/simulation/{ended}").get_json()["stopsAt"])
    assert gateway.get(f"/simulation/{overdue}").get_json()["stopsAt"] is None
    launcher.simulations[ended].end(SimulationState.STOPPED)
    gateway.await_state(ended, "stopped")
    assert gateway.get(f"/simulation/{ended}").get_json()["stopsAt"] is None


def test_command_that_changes_nothing_reaches_the_launcher_which_counts_the_time(
    gateway: RunningGateway, launcher: FakeLauncher
) -> None:
    simulation = launcher.simulations[gateway.launch()]
    assert gateway.ask_state(simulation.id, "paused").get_json() == {"state": "paused"}
    wait_until(lambda: [each.event for each in simulation.commands] == ["paused"])
