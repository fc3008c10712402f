"""A spawner that dies takes its simulations along, and the next launch finds a new one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.launchers import RunningLauncher
from tests.waiting import wait_until


def test_simulations_of_a_dead_spawner_are_failed_and_leave_nothing(launcher: RunningLauncher) -> None:
    script = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nwhile True: nrp.run_loop()"
    simulations = [launcher.started(script), launcher.paused()]
    simulations[0].await_steps()
    os.kill(launcher.spawner, signal.SIGKILL)
    for simulation in simulations:
        final = simulation.await_final()
        assert final["event"] == "failed"
        assert "The process that forks simulation servers was killed by SIGKILL" in final["reason"]
        assert final["logs"]
        simulation.assert_nothing_is_left()


def test_launch_right_after_the_death_of_a_spawner_runs(launcher: RunningLauncher) -> None:
    for _ in range(2):  # whether or not the launcher has taken note of it
        os.kill(launcher.spawner, signal.SIGKILL)
        simulation = launcher.paused()
        simulation.command("started")
        simulation.await_steps()
        simulation.command("stopped")
        assert simulation.await_final()["event"] == "stopped"
        simulation.assert_nothing_is_left()


def test_idle_servers_end_with_it(launcher: RunningLauncher) -> None:
    wait_until(lambda: len(launcher.idle) == 2)
    idle = launcher.idle
    os.kill(launcher.spawner, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in idle.values()))
    wait_until(lambda: len(launcher.idle) == 2)
    assert not launcher.idle.keys() & idle.keys()


def test_its_folder_goes_with_it(launcher: RunningLauncher) -> None:
    folders = set((launcher.data / "spawners").iterdir())
    os.kill(launcher.spawner, signal.SIGKILL)
    wait_until(lambda: not folders & set((launcher.data / "spawners").iterdir()))
    launcher.paused().command("stopped")
