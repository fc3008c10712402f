"""What a real launcher tells Prometheus, and whoever inquires over the bus."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
import requests

from nrp_common.bus import BrokerAddress
from nrp_common.messages import Inquiry
from tests.documented_metrics import SHARED, documented, samples, served
from tests.launchers import Launchers, RunningLauncher
from tests.ports import free_port
from tests.storage_server import StorageServer
from tests.waiting import wait_until

TOKEN = "only for figures"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def counting(
    broker: BrokerAddress, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory, port: int
) -> Iterator[RunningLauncher]:
    """A launcher that serves figures."""
    folder = tmp_path_factory.mktemp("launcher")
    launcher = RunningLauncher(broker, storage, folder, capacity=4, metrics_port=port, metrics_token=TOKEN)
    launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


def scrape(port: int, token: str = TOKEN) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10)


def figure(port: int, sample: str) -> float:
    return samples(scrape(port).text).get(sample, 0.0)


def test_they_are_for_who_has_the_token(counting: RunningLauncher, port: int) -> None:
    assert scrape(port, "wrong").status_code == 401
    assert scrape(port).status_code == 200


def test_servers_that_are_ready_for_launches_are_counted(counting: RunningLauncher, port: int) -> None:
    wait_until(lambda: figure(port, "nrp_launcher_idle_servers") == 2)  # the default of NRP_IDLE_SERVERS
    simulation = counting.paused()
    wait_until(lambda: figure(port, "nrp_launcher_idle_servers") == 2)
    simulation.command("stopped")
    simulation.await_final()


def test_a_simulation_is_counted_from_its_launch_to_its_archives(counting: RunningLauncher, port: int) -> None:
    before = samples(scrape(port).text)
    simulation = counting.started()
    simulation.await_steps()
    wait_until(lambda: figure(port, 'nrp_simulation_run_loop_rate{statistic="median"}') > 0)
    assert figure(port, "nrp_run_loop_steps_total") > before["nrp_run_loop_steps_total"]
    assert figure(port, 'nrp_launcher_simulations{state="started"}') == 1
    simulation.command("stopped")
    final = simulation.await_final()
    simulation.assert_nothing_is_left()
    after = samples(scrape(port).text)

    def grew(sample: str) -> float:
        return after[sample] - before.get(sample, 0.0)

    for phase in ("clone", "spawn", "initialise"):
        assert grew(f'nrp_launch_phase_duration_seconds_count{{phase="{phase}"}}') == 1
    assert grew("nrp_launcher_launches_total") == 1
    assert grew('nrp_launcher_ended_total{state="stopped"}') == 1
    assert grew('nrp_storage_upload_duration_seconds_count{outcome="stored"}') == 1
    assert final["logs"]
    # The last status was published by the server itself, just before the end that the journal was read at.
    told = [each["simulationTime"] for each in simulation.statuses]
    assert grew("nrp_simulated_seconds_total") == pytest.approx(max(told), abs=0.005)
    assert after['nrp_launcher_simulations{state="started"}'] == 0


def test_a_storage_that_is_away_shows(counting: RunningLauncher, port: int) -> None:
    simulation = counting.paused()
    counting.storage.answer(500, "/storage/")
    simulation.command("stopped")
    simulation.await_final()
    wait_until(lambda: figure(port, "nrp_spool_simulations") == 1)
    assert figure(port, "nrp_spool_bytes") > 0
    wait_until(lambda: figure(port, 'nrp_storage_upload_duration_seconds_count{outcome="failed"}') > 0)
    counting.storage.heal()
    wait_until(lambda: figure(port, "nrp_spool_simulations") == 0, 20)


def test_all_that_is_served_is_documented_and_the_other_way_round(counting: RunningLauncher, port: int) -> None:
    simulation = counting.started()
    wait_until(lambda: figure(port, 'nrp_simulation_real_time_factor{statistic="lowest"}') > 0)
    text = scrape(port).text
    assert served(text) == documented(SHARED, "Launcher")
    assert simulation.experiment not in text
    assert StorageServer.OWNER not in text
    simulation.command("stopped")
    simulation.await_final()


def test_a_launcher_serves_no_figures_unless_it_is_told_to(launcher: RunningLauncher) -> None:
    import psutil

    listening = [each for each in psutil.Process(launcher.process.pid).net_connections() if each.status == "LISTEN"]
    assert listening == []


def test_a_port_that_is_taken_ends_the_launcher_with_a_message(launchers: Launchers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        launcher = launchers.unstarted(metrics_port=taken.getsockname()[1])
        launcher.start()
        try:
            assert launcher.process.wait(30) == 2
        except subprocess.TimeoutExpired:  # pragma: no cover
            launcher.kill()
            raise
    assert "NRP_METRICS_PORT" in launcher.log
    assert "Traceback" not in launcher.log


def test_a_launcher_says_how_it_is(launcher: RunningLauncher) -> None:
    inquiry = Inquiry(deadline=time.time() + 10)
    asked_at = time.time()
    health = launcher.asker.request(launcher.topics.inquiry(launcher.name), inquiry, timeout=5).health
    assert health is not None
    assert asked_at <= health.time <= time.time()
    assert health.free_disk > 0
    assert (health.spooled, health.version) == (0, launcher.presences[-1].json["version"])
