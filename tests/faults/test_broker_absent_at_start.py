"""Services that start before their broker say so once, wait for it, and work as soon as it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateways import Installations
from tests.launchers import Launchers
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until


def test_launcher_waits_and_takes_launches_when_it_appears(launchers: Launchers, mosquitto: Mosquitto) -> None:
    launcher = launchers.unstarted(broker=mosquitto.address)
    mosquitto.stop()
    launcher.start()
    obstacle = f"The MQTT broker at {mosquitto.address} cannot be reached"
    wait_until(lambda: obstacle in launcher.log)
    mosquitto.start()
    launcher.await_ready()
    assert launcher.log.count(obstacle) == 1
    simulation = launcher.started()
    simulation.await_steps()
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"


@pytest.mark.alone
def test_launcher_that_waits_ends_at_once_when_told_to(launchers: Launchers, mosquitto: Mosquitto) -> None:
    launcher = launchers.unstarted(broker=mosquitto.address)
    mosquitto.stop()
    launcher.start()
    wait_until(lambda: "cannot be reached" in launcher.log)
    assert launcher.end(timeout=5) == 0


def test_gateway_waits_and_finds_its_launcher_when_it_appears(mosquitto: Mosquitto, tmp_path: Path) -> None:
    mosquitto.stop()
    installation = Installations(mosquitto.address, tmp_path)
    try:
        gateway = installation.unconnected_gateway()
        ready = gateway.get("/ready")
        assert (ready.status_code, ready.get_json()["ready"]) == (503, False)
        assert str(mosquitto.address) in ready.get_json()["broker"]
        assert gateway.post("/simulation", {"experimentID": "demo"}).status_code == 503
        mosquitto.start()
        installation.launcher()
        gateway.await_launcher()
        assert gateway.get("/ready").get_json()["broker"] == "ok"
        assert gateway.state(gateway.launch()) == "paused"
    finally:
        installation.close()
