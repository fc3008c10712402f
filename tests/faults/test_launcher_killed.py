"""A launcher that was killed: its simulations run on, the next one adopts them and brings all to their right ends."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from nrp_simserver import processes
from tests.faults.test_overruled import declare_failed
from tests.launchers import Launched, Launchers, RunningLauncher, spool_entries
from tests.simulation_servers import ENGINE
from tests.waiting import wait_until

DAEMON = """
import subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
open("result.txt", "w").write("42")
print("the script says this")
while True:
    nrp.run_loop()
    time.sleep(0.01)
"""

FAILING_WHEN_TOLD = """
import os, time
while not os.path.exists("fail"):
    nrp.run_loop()
    time.sleep(0.01)
raise RuntimeError("on purpose")
"""

DEAF = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
while True:
    try:
        signal.sigwait([signal.SIGUSR2])
    except BaseException:
        pass
"""


def final_words(*simulations: Launched) -> list[tuple[str, Any]]:
    return [(final["event"], final["reason"]) for final in (each.await_final() for each in simulations)]


def assert_stored_and_nothing_left(*simulations: Launched) -> None:
    for simulation in simulations:
        final = simulation.await_final()
        wait_until(lambda simulation=simulation: simulation.archives)  # type: ignore[misc]
        # Also for a gateway that has given the simulation up meanwhile:
        assert simulation.archives[-1] == {"logs": final["logs"], "results": final["results"]}
        assert final["incarnation"] == simulation.incarnation
        assert final["seq"] > max((each["seq"] for each in simulation.lifecycle if each != final), default=0)
        assert len(simulation.finals) == 1
        assert simulation.log_in(final["logs"]) is not None
        simulation.assert_nothing_is_left()


# -- those that run on -------------------------------------------------------------------------------------------------


def test_simulations_run_on_and_obey_while_it_is_away(launchers: Launchers) -> None:
    launcher = launchers.running()
    started, paused = launcher.started(), launcher.paused()
    started.await_steps()
    launcher.kill()
    started.await_steps()
    assert started.command("paused").error is None
    assert paused.command("started").error is None
    paused.await_steps()


def test_simulations_are_adopted_by_the_next_one(launchers: Launchers) -> None:
    launcher = launchers.running(stop_grace_s=2)
    simulations = [launcher.started(DAEMON), launcher.paused(), launcher.started()]
    servers = [simulation.server for simulation in simulations]
    for _ in range(2):  # an adopted one is adopted again
        launcher.kill()
        launcher.restart()
    assert [simulation.server for simulation in simulations] == servers
    assert launcher.presences[-1].json["running"] == 3
    simulations[0].await_steps()
    assert launcher.ask_launch(simulations[1].id, simulations[1].experiment).incarnation == simulations[1].incarnation
    assert not any(simulation.finals for simulation in simulations)
    # From here on they are as if they were its own:
    simulations[0].command("stopped")
    os.kill(servers[1], signal.SIGKILL)
    os.kill(servers[2], signal.SIGSTOP)
    simulations[2].command("stopped")
    stopped, killed, stuck = final_words(*simulations)
    assert (stopped, killed[0], stuck) == (("stopped", None), "failed", ("stopped", None))
    assert "The simulation server was killed by SIGKILL" in killed[1]
    assert simulations[0].stored(simulations[0].finals[0]["results"]) == {"result.txt": b"42"}
    assert_stored_and_nothing_left(*simulations)
    assert launcher.presences[-1].json["running"] == 0


def test_launch_that_had_its_server_is_ready_in_the_end(launchers: Launchers) -> None:
    launcher = launchers.running()
    simulation = launcher.launch(files={"engine.py": f"import time\ntime.sleep(1)\n{ENGINE}"})
    wait_until(lambda: (simulation.folder / f"simulation_{simulation.id}.log").exists())
    launcher.kill()
    launcher.restart()
    simulation.await_transition("initialized")
    simulation.command("stopped")
    assert_stored_and_nothing_left(simulation)


def test_simulation_that_it_was_about_to_kill_is_killed_by_the_next_one(launchers: Launchers) -> None:
    launcher = launchers.running(stop_grace_s=3)
    simulation = launcher.started(DEAF)
    os.kill(simulation.server, signal.SIGSTOP)
    simulation.command("stopped")
    wait_until(lambda: '"intention":{' in (simulation.folder / "record.json").read_text())
    launcher.kill()
    launcher.restart()
    assert final_words(simulation) == [("stopped", None)]
    assert_stored_and_nothing_left(simulation)


# -- those that ended meanwhile ----------------------------------------------------------------------------------------


def test_simulations_that_ended_meanwhile_have_their_logs_stored_and_are_told_with_the_right_reason(
    launchers: Launchers,
) -> None:
    launcher = launchers.running()
    simulations = [launcher.started(DAEMON), launcher.started(DAEMON), launcher.started(FAILING_WHEN_TOLD)]
    killed, stopped, failed = simulations
    wait_until(lambda: all("the script" in each.own_log for each in (killed, stopped)))
    servers = {simulation.server for simulation in simulations}
    launcher.kill()
    os.kill(killed.server, signal.SIGKILL)
    assert stopped.command("stopped").error is None
    (failed.folder / "experiment" / "fail").touch()
    wait_until(lambda: all(processes.has_ended(server) for server in servers))
    launcher.restart()
    (how, why), *others = final_words(*simulations)
    assert how == "failed"
    assert why.startswith("The simulation server was killed by SIGKILL; its last words:")
    assert "the script says this" in why
    assert others[0] == ("stopped", None)
    assert others[1][0] == "failed"
    assert "on purpose" in others[1][1]
    assert stopped.stored(stopped.finals[0]["results"]) == {"result.txt": b"42"}
    assert_stored_and_nothing_left(*simulations)
    assert spool_entries(launcher) == []


def test_verdict_that_a_gateway_passed_meanwhile_stands(launchers: Launchers) -> None:
    launcher = launchers.running()
    ended, running = launcher.started(DAEMON), launcher.started()
    wait_until(lambda: "the script" in ended.own_log)
    launcher.kill()
    os.kill(ended.server, signal.SIGKILL)
    for simulation in (ended, running):
        declare_failed(simulation, incarnation=simulation.incarnation)
    launcher.restart()
    for simulation in (ended, running):
        wait_until(lambda simulation=simulation: simulation.archives)  # type: ignore[misc]
        assert simulation.log_in(simulation.archives[-1]["logs"]) is not None
        simulation.assert_nothing_is_left()
        assert [final["source_node"] for final in simulation.finals] == ["nrp_gateway"]


def test_simulation_that_was_being_cloned_is_failed_by_the_next_one(launchers: Launchers) -> None:
    launcher = launchers.running()
    launcher.storage.hang("/storage/")
    simulation = launcher.launch()
    launcher.kill()
    launcher.storage.heal()
    launcher.restart()
    final = simulation.await_final()
    assert (final["event"], final["logs"]) == ("failed", None)
    assert final["reason"] == "The launcher ended before it had a simulation server started"
    simulation.assert_nothing_is_left()


def test_spool_is_stored_by_the_next_one_and_a_launch_asked_again_does_not_happen_again(launchers: Launchers) -> None:
    launcher = launchers.running()
    simulation = launcher.started("open('result.txt', 'w').write('42')")
    simulation.await_transition("completed")
    launcher.storage.hang(".zip")
    simulation.command("stopped")
    wait_until(lambda: spool_entries(launcher))
    launcher.kill()
    launcher.storage.heal()
    launcher.restart()
    assert launcher.ask_launch(simulation.id, simulation.experiment).incarnation == simulation.incarnation
    final = simulation.await_final()
    assert final["event"] == "stopped"
    assert len(simulation.finals) == 1
    archives = final if final["results"] != "pending" else simulation.archives[-1]
    simulation.assert_nothing_is_left()
    assert simulation.stored(archives["results"]) == {"result.txt": b"42"}


# -- no next one, or another one ---------------------------------------------------------------------------------------


def test_without_a_next_one_simulations_end_by_themselves_and_a_later_one_stores_their_logs(
    launchers: Launchers,
) -> None:
    launcher = launchers.running(orphaned_s=1, stop_grace_s=1)
    simulations = [launcher.started(DAEMON), launcher.paused(), launcher.started(DEAF)]
    wait_until(lambda: "the script" in simulations[0].own_log)
    launcher.kill()
    wait_until(lambda: not launcher.spawners)
    assert not any(simulation.processes() for simulation in simulations)
    launcher.restart()
    reason = "No launcher came for 1 s, and the simulation was ended"
    assert final_words(*simulations) == [("failed", reason)] * 3
    assert "the script says this" in simulations[0].log_in(simulations[0].finals[0]["logs"])
    assert_stored_and_nothing_left(*simulations)


def test_simulations_that_are_not_to_outlive_it_end_at_once(launchers: Launchers) -> None:
    launcher = launchers.running(orphaned_s=0)
    simulations = [launcher.started(), launcher.paused()]
    launcher.kill()
    wait_until(lambda: not launcher.spawners)
    launcher.restart()
    assert final_words(*simulations) == [("failed", "The launcher ended, and the simulation with it")] * 2
    assert_stored_and_nothing_left(*simulations)


@pytest.mark.parametrize("who", ["launcher first", "spawner first"])
def test_when_its_spawner_is_killed_too_the_next_one_fails_its_simulations_and_stores_their_logs(
    launchers: Launchers, who: str
) -> None:
    launcher = launchers.running()
    simulations = [launcher.started(DAEMON), launcher.paused()]
    simulations[0].await_steps()
    spawner = launcher.spawner
    if who == "launcher first":
        launcher.kill()
        os.kill(spawner, signal.SIGKILL)
    else:
        os.kill(launcher.process.pid, signal.SIGSTOP)
        os.kill(spawner, signal.SIGKILL)
        launcher.kill()
    wait_until(lambda: not launcher.spawners)
    launcher.restart()
    reason = "The process that forks simulation servers ended while there was no launcher, and the simulation with it"
    for event, why in final_words(*simulations):
        assert (event, reason in why) == ("failed", True)
    assert_stored_and_nothing_left(*simulations)


def test_next_one_of_another_version_lets_them_finish_and_starts_new_ones_with_its_own(
    launchers: Launchers, another_version: dict[str, str]
) -> None:
    launcher = launchers.running()
    old = launcher.started()
    old_spawner = launcher.spawner
    launcher.kill()
    launcher.restart(**another_version)
    new = launcher.started("import nrp_simserver\nprint('code:', nrp_simserver.__file__)\nwhile True: nrp.run_loop()")
    old.await_steps()
    assert len(launcher.spawners) == 2
    wait_until(lambda: "code:" in new.own_log)
    assert another_version["PYTHONPATH"] in new.own_log
    old.command("stopped")
    assert final_words(old) == [("stopped", None)]
    wait_until(lambda: len(launcher.spawners) == 1)
    assert launcher.spawner != old_spawner
    new.await_steps()
    new.command("stopped")
    assert_stored_and_nothing_left(old)
    assert final_words(new) == [("stopped", None)]


def test_spawner_that_does_not_answer_is_not_taken_for_dead(launchers: Launchers) -> None:
    launcher = launchers.running()
    old = launcher.started()
    frozen = launcher.spawner
    launcher.kill()
    os.kill(frozen, signal.SIGSTOP)
    launcher.restart()
    new = launcher.started()
    old.await_steps()
    new.await_steps()
    assert not old.finals
    os.kill(frozen, signal.SIGCONT)
    for simulation in (old, new):
        simulation.command("stopped")
    assert final_words(old, new) == [("stopped", None)] * 2
    assert_stored_and_nothing_left(old)
    wait_until(lambda: frozen not in launcher.spawners)


def test_two_spawners_are_never_left(launchers: Launchers) -> None:
    launcher = launchers.running()
    simulation = launcher.paused()
    for _ in range(3):
        launcher.kill()
        launcher.restart()
    assert launcher.spawners == [launcher.spawner]
    simulation.command("stopped")
    simulation.await_final()
    assert launcher.end() == 0
    assert launcher.spawners == []
    assert list((launcher.data / "spawners").iterdir()) == []


def test_data_directory_is_used_by_one_launcher_at_a_time(launchers: Launchers) -> None:
    launcher = launchers.running()
    first = launcher.process
    launcher.start()
    assert launcher.process.wait(20) == 2
    assert "is used by another launcher" in launcher.log
    first.terminate()
    assert first.wait(20) == 0


@pytest.fixture
def another_version(tmp_path: Any) -> dict[str, str]:
    """The environment of a launcher whose code is installed elsewhere."""
    return RunningLauncher.installed_again(tmp_path / "another")
