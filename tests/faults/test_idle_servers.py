"""A few servers are always ready for the next launch: each is used once, and replaced when it is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from nrp_simserver import processes
from tests.launchers import Launchers, RunningLauncher
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until


def await_idle(launcher: RunningLauncher, count: int = 2) -> dict[str, int]:
    """The idle servers, once there are so many."""
    wait_until(lambda: len(launcher.idle) == count, 20)
    return launcher.idle


def test_launch_takes_one_that_another_one_replaces(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=2)
    taken: set[int] = set()
    for _ in range(4):
        idle = await_idle(launcher)
        simulation = launcher.paused()
        assert simulation.incarnation in idle
        assert simulation.server == idle[simulation.incarnation]
        assert simulation.server not in taken
        taken.add(simulation.server)
    for pid in taken:
        os.kill(pid, 0)  # each still runs its own


def test_burst_beyond_them_is_launched_all_the_same(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=1, capacity=8)
    await_idle(launcher, 1)
    simulations = [launcher.launch() for _ in range(6)]
    for simulation in simulations:
        simulation.await_transition("initialized")
    assert len({simulation.server for simulation in simulations}) == 6
    await_idle(launcher, 1)


def test_none_are_kept_when_none_are_wanted(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=0)
    simulation = launcher.started()
    simulation.await_steps()
    assert launcher.idle == {}


def test_one_that_dies_is_replaced(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=2)
    idle = await_idle(launcher)
    for pid in idle.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not launcher.idle.keys() & idle.keys())
    assert not await_idle(launcher).keys() & idle.keys()
    simulation = launcher.started()
    simulation.await_steps()


def test_launch_whose_server_has_just_died_gets_another_one(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=1)
    [(incarnation, pid)] = await_idle(launcher, 1).items()
    launcher.storage.hang("/storage/")
    simulation = launcher.launch()
    assert simulation.incarnation == incarnation
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: processes.has_ended(pid))  # else it may still be given its simulation
    launcher.storage.heal()
    simulation.await_transition("initialized")
    assert simulation.server != pid
    assert simulation.command("started").error is None
    simulation.await_steps()


def test_one_that_was_reserved_for_a_launch_that_failed_is_let_go(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=1)
    [(incarnation, pid)] = await_idle(launcher, 1).items()
    simulation = launcher.launch_experiment("no_such_experiment")
    assert simulation.incarnation == incarnation
    assert simulation.await_final()["event"] == "failed"
    wait_until(lambda: incarnation not in launcher.idle)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert await_idle(launcher, 1).keys() != {incarnation}


def test_they_come_back_to_a_broker_that_forgot_them(launchers: Launchers, mosquitto: Mosquitto) -> None:
    launcher = launchers.running(broker=mosquitto.address, idle_servers=1)
    idle = await_idle(launcher, 1)
    mosquitto.stop()
    before = len(launcher.presences)
    mosquitto.start()
    launcher.await_ready(before)
    simulation = launcher.started()
    assert simulation.incarnation in idle
    simulation.await_steps()


def test_when_they_die_at_once_they_are_tried_ever_less_often_and_the_log_says_why(
    launchers: Launchers, tmp_path: Path
) -> None:
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "sitecustomize.py").write_text(
        "import os\nos.register_at_fork(after_in_child=lambda: os.write(2, b'out of luck\\n') and os._exit(3))\n"
    )
    launcher = launchers.unstarted(idle_servers=1)
    launcher.start(PYTHONPATH=str(tmp_path / "faulty"))
    launcher.await_ready()
    wait_until(lambda: "No server can be kept ready for launches; next try in 5 s" in launcher.log, 20)
    assert "An idle simulation server ended with exit code 3; its last words:" in launcher.log
    assert "out of luck" in launcher.log
    assert launcher.log.count("next try in") == 2
    simulation = launcher.launch()
    reason = simulation.await_final()["reason"]
    assert "exit code 3" in reason
    assert "out of luck" in reason


def test_they_leave_nothing_when_their_launcher_ends(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=2)
    idle = await_idle(launcher)
    assert launcher.end() == 0
    assert launcher.idle == {}
    topics = {launcher.topics.server_presence(incarnation) for incarnation in idle}
    wait_until(lambda: all(launcher.wire.on(topic)[-1].payload == b"" for topic in topics))


def test_those_of_a_killed_launcher_serve_the_next_one(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=1)
    idle = await_idle(launcher, 1)
    launcher.kill()
    launcher.restart()
    assert launcher.paused().incarnation in idle


def test_one_that_was_reserved_by_a_killed_launcher_serves_no_other_simulation(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=1)
    [incarnation] = await_idle(launcher, 1)
    launcher.storage.hang("/storage/")
    reserved = launcher.launch()
    assert reserved.incarnation == incarnation
    launcher.kill()
    launcher.storage.heal()
    launcher.restart()
    other = launcher.paused()
    assert other.incarnation != incarnation
    assert reserved.await_final()["event"] == "failed"
    other.command("stopped")
    assert other.await_final()["event"] == "stopped"


def test_those_of_other_settings_are_let_go_by_the_next_launcher(launchers: Launchers) -> None:
    launcher = launchers.running(idle_servers=1)
    idle = await_idle(launcher, 1)
    simulation = launcher.paused()
    launcher.kill()
    launcher.restart(NRP_MQTT_CA_FILE="/etc/ssl/certs/ca-certificates.crt")
    wait_until(lambda: launcher.idle and not launcher.idle.keys() & idle.keys())
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"
