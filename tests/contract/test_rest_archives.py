"""`GET /simulation/<id>/logs` and `/results`."""

from __future__ import annotations

import pytest

from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Refusal, Reply
from nrp_gateway import archives
from nrp_gateway.settings import Authentication
from tests.fakes import FakeLauncher, FakeSimulation, write_archive
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until

KINDS = [("logs", "2026-11-24_10-00-00_simulation_1.log.zip"), ("results", "2026-11-24_10-00-00_simulation_1.data.zip")]


def end_with(gateway: RunningGateway, simulation: FakeSimulation, kind: str, name: str | None) -> None:
    simulation.end(SimulationState.STOPPED, **{kind: name})  # type: ignore[arg-type]
    gateway.await_state(simulation.id, "stopped")


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_archive_of_an_ended_simulation_comes_from_the_experiment(
    gateway: RunningGateway, simulation: FakeSimulation, kind: str, name: str
) -> None:
    write_archive(gateway.settings.experiments, "demo", name, b"PK zipped")
    end_with(gateway, simulation, kind, name)
    answer = gateway.get(f"/simulation/{simulation.id}/{kind}")
    assert (answer.status_code, answer.data) == (200, b"PK zipped")
    assert answer.content_type == "application/zip"
    assert name in answer.headers["Content-Disposition"]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_archive_of_a_running_simulation_comes_from_its_launcher(
    gateway: RunningGateway, launcher: FakeLauncher, simulation: FakeSimulation, kind: str, name: str
) -> None:
    write_archive(gateway.settings.experiments, "demo", name, b"PK so far")
    launcher.archive = Reply(archive=name)
    answer = gateway.get(f"/simulation/{simulation.id}/{kind}")
    assert (answer.status_code, answer.data) == (200, b"PK so far")


def test_archive_that_the_storage_does_not_have_yet_comes_from_its_launcher(
    gateway: RunningGateway, launcher: FakeLauncher, simulation: FakeSimulation
) -> None:
    end_with(gateway, simulation, "logs", "pending")
    write_archive(gateway.settings.experiments, "demo", "x.log.zip", b"PK spooled")
    launcher.archive = Reply(archive="x.log.zip")
    assert gateway.get(f"/simulation/{simulation.id}/logs").data == b"PK spooled"


@pytest.mark.parametrize("name", [None, "gone.log.zip"])
def test_archive_that_is_not_there_is_404(
    gateway: RunningGateway, simulation: FakeSimulation, name: str | None
) -> None:
    end_with(gateway, simulation, "logs", name)
    answer = gateway.get(f"/simulation/{simulation.id}/logs")
    assert answer.status_code == 404
    assert answer.get_json()["message"] == f"Simulation {simulation.id} has no logs"


def test_archive_outside_the_experiment_is_not_given_out(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    (gateway.settings.experiments / "secret").write_bytes(b"secret")
    end_with(gateway, simulation, "logs", "../secret")
    answer = gateway.get(f"/simulation/{simulation.id}/logs")
    assert answer.status_code >= 400
    assert answer.data != b"secret"


def test_launcher_that_cannot_hand_out_an_archive_is_503(
    gateway: RunningGateway, launcher: FakeLauncher, simulation: FakeSimulation
) -> None:
    launcher.archive = Reply(error="the Storage Server is away", refusal=Refusal.STORAGE)
    answer = gateway.get(f"/simulation/{simulation.id}/results")
    assert (answer.status_code, answer.get_json()["type"]) == (503, "Server Error")
    assert "the Storage Server is away" in answer.get_json()["message"]


def test_launcher_that_does_not_answer_is_504(installation: Installations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "COLLECTED_WITHIN_S", 0.2)
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    simulation_id = gateway.launch()
    launcher.bus.unsubscribe(launcher.topics.collect(launcher.name))
    answer = gateway.get(f"/simulation/{simulation_id}/logs")
    assert answer.status_code == 504
    assert "the logs of simulation" in answer.get_json()["message"]


def test_launcher_that_is_away_is_503(installation: Installations) -> None:
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    simulation_id = gateway.launch()
    launcher.leave()
    wait_until(lambda: not gateway.gateway.presences.capacity)
    answer = gateway.get(f"/simulation/{simulation_id}/logs")
    assert answer.status_code == 503
    assert "'fake'" in answer.get_json()["message"]


def test_archive_in_a_storage_server_is_read_with_the_callers_token(installation: Installations) -> None:
    storage = installation.storage()
    storage.users, storage.viewers = {"ann-token": "ann"}, {"demo": {"ann"}}
    storage.files["demo/x.log.zip"] = b"PK stored"
    launcher = installation.launcher()
    gateway = installation.gateway(
        authentication=Authentication.STORAGE, storage_url=storage.url, secret_key="a shared key"
    )
    gateway.await_launcher()
    simulation = launcher.simulations[gateway.launch(token="ann-token")]
    simulation.end(SimulationState.STOPPED, logs="x.log.zip")
    gateway.await_state(simulation.id, "stopped", token="ann-token")
    assert gateway.get(f"/simulation/{simulation.id}/logs", token="ann-token").data == b"PK stored"


def test_archive_that_the_storage_server_keeps_from_the_caller_is_401(installation: Installations) -> None:
    launcher = installation.launcher()
    gateway = installation.gateway(storage_url=installation.storage().url)
    gateway.await_launcher()
    simulation = launcher.simulations[gateway.launch()]
    simulation.end(SimulationState.STOPPED, logs="x.log.zip")
    gateway.await_state(simulation.id, "stopped")
    answer = gateway.get(f"/simulation/{simulation.id}/logs")
    assert (answer.status_code, answer.get_json()["type"]) == (401, "Client error")
