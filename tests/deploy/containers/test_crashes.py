"""Each container dies, and is started again by the engine: everything is right afterwards."""

from __future__ import annotations

import io
import zipfile

import pytest

from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, log_of, record_of, started
from tests.e2e.websocket_frontend import Frontend
from tests.waiting import wait_until


def advances(installation: Installation, number: int) -> None:
    """The simulation takes steps, and the frontends hear of it."""
    topic = f"nrp_simulation/{number}/status"
    with Frontend(installation.websocket) as frontend:
        times: list[float] = []

        def two_times() -> bool:
            times[:] = [each["simulationTime"] for each in frontend.of(topic) if "simulationTime" in each]
            return len(set(times)) > 1

        frontend.wait_for(two_times)
        assert times == sorted(times)


def runs_from_launch_to_logs(installation: Installation) -> None:
    installation.await_readiness()
    number = started(installation, experiment(installation))
    advances(installation, number)
    stops_with_logs(installation, number)


def stops_with_logs(installation: Installation, number: int) -> None:
    assert installation.put_state(number, "stopped").json() == {"state": "stopped"}
    assert log_of(installation, record_of(installation, number))


@pytest.mark.parametrize("service", ["broker", "gateway"])
def test_simulations_run_on_while_it_is_away(installation: Installation, service: str) -> None:
    installation.await_readiness()
    number = started(installation, experiment(installation))
    advances(installation, number)
    installation.crash(installation.containers(service)[0])
    installation.await_readiness()
    advances(installation, number)
    assert record_of(installation, number)["state"] == "started"
    stops_with_logs(installation, number)
    runs_from_launch_to_logs(installation)


def test_simulations_of_a_launcher_that_died_have_failed_with_their_logs_stored(installation: Installation) -> None:
    installation.await_readiness()
    number = started(installation, experiment(installation, 'print("so far")\nwhile True:\n    nrp.run_loop()\n'))
    advances(installation, number)
    installation.crash(installation.containers("launcher")[0])
    wait_until(lambda: installation.state_of(number) == "failed", 60)
    wait_until(lambda: record_of(installation, number).get("logs"), 30)
    record = record_of(installation, number)
    assert record["error"]
    assert "so far" in log_of(installation, record)
    launcher = installation.containers("launcher")[0]
    wait_until(
        lambda: (
            not installation.execute(
                launcher, "sh", "-c", "ls /data/1/simulations /data/1/spool | grep -v :; true"
            ).strip()
        )
    )
    runs_from_launch_to_logs(installation)


def test_what_is_taken_down_and_brought_up_again_knows_what_it_knew(installation: Installation) -> None:
    installation.await_readiness()
    name = experiment(installation)
    number = started(installation, name)
    installation.down()
    assert {each.split()[0] for each in installation.left()} == {"volume"}
    installation.up()
    installation.await_readiness()
    record = record_of(installation, number)
    assert record["state"] == "stopped"
    with zipfile.ZipFile(io.BytesIO(installation.get(f"/storage/{name}/{record['logs']}?byname=true").content)) as logs:
        assert f"simulation_{number}.log" in logs.namelist()
    assert started(installation, name) > number
