"""The same API below `/slot/<n>/`, where a proxy finds one backend a slot."""

from __future__ import annotations

import pytest

from nrp_common.lifecycle import SimulationState
from tests.fakes import FakeLauncher
from tests.gateways import Installations, RunningGateway


@pytest.fixture
def slots(installation: Installations) -> tuple[RunningGateway, FakeLauncher]:
    launcher, gateway = installation.launcher(capacity=3), installation.gateway()
    gateway.await_launcher()
    return gateway, launcher


def test_slot_lists_its_own_launches_only(slots: tuple[RunningGateway, FakeLauncher]) -> None:
    gateway, _ = slots
    first = gateway.launch(through="/slot/0")
    second = gateway.launch(through="/slot/1")
    at_the_root = gateway.launch()

    def listed(path: str) -> list[int]:
        return [each["simulationID"] for each in gateway.get(path).get_json()]

    assert listed("/slot/0/simulation") == [first]
    assert listed("/slot/1/simulation") == [second]
    assert listed("/slot/2/simulation") == []
    assert listed("/simulation") == [first, second, at_the_root]


@pytest.mark.parametrize("end", [SimulationState.STOPPED, SimulationState.FAILED])
def test_slot_takes_one_unfinished_simulation(slots: tuple[RunningGateway, FakeLauncher], end: SimulationState) -> None:
    gateway, launcher = slots
    simulation = launcher.simulations[gateway.launch(through="/slot/0")]
    answer = gateway.post("/slot/0/simulation", {"experimentID": "demo"})
    assert answer.status_code == 409
    assert answer.get_json() == {
        "message": "Another simulation is already running on the server",
        "type": "Client error",
        "data": None,
    }
    assert gateway.launch(through="/slot/1") > simulation.id
    simulation.end(end)
    gateway.await_state(simulation.id, end)
    assert gateway.launch(through="/slot/0") > simulation.id


@pytest.mark.parametrize("slot", ["3", "99", "-1", "x", "1e0", "0" * 5000, "²"])
def test_slot_beyond_the_capacity_is_404(slots: tuple[RunningGateway, FakeLauncher], slot: str) -> None:
    gateway, _ = slots
    answer = gateway.get(f"/slot/{slot}/simulation")
    assert (answer.status_code, answer.get_json()["type"]) == (404, "Client error")
    assert len(answer.data) < 500


def test_slots_stay_while_no_launcher_is_there(installation: Installations) -> None:
    gateway = installation.gateway()
    assert gateway.get("/slot/0/simulation").get_json() == []
    assert gateway.post("/slot/0/simulation", {"experimentID": "demo"}).status_code == 503


def test_everything_else_is_as_at_the_root(slots: tuple[RunningGateway, FakeLauncher]) -> None:
    gateway, _ = slots
    answer = gateway.post("/slot/0/simulation", {"experimentID": "demo"})
    simulation_id = answer.get_json()["simulationID"]
    assert answer.headers["Location"] == f"/simulation/{simulation_id}"
    path = f"/slot/1/simulation/{simulation_id}"
    assert gateway.get(path).get_json() == gateway.get(f"/simulation/{simulation_id}").get_json()
    assert gateway.put(f"{path}/state", {"state": "started"}).get_json() == {"state": "started"}
    assert gateway.get(f"{path}/state").get_json() == {"state": "started"}
    assert gateway.post(f"{path}/reset").get_json() == {"state": "paused"}
    assert gateway.post(f"{path}/step").get_json() == {"state": "paused"}
    assert gateway.get(f"{path}/logs").status_code == 404
    assert gateway.delete(path).status_code == 204
    assert gateway.get("/slot/0/version").get_json() == gateway.get("/version").get_json()
    assert gateway.get("/slot/0/health").status_code == gateway.get("/slot/0/ready").status_code == 200
