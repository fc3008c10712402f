"""A launcher that was killed leaves nothing that the next one does not bring to its end."""

from __future__ import annotations

from tests.launchers import Launchers, spool_entries
from tests.waiting import wait_until

DAEMON = """
import subprocess
subprocess.Popen(["sleep", "600"], start_new_session=True)
open("result.txt", "w").write("42")
print("the script says this")
while True:
    nrp.run_loop()
"""


def test_running_simulations_end_with_it_and_the_next_one_fails_them_and_stores_their_archives(
    launchers: Launchers,
) -> None:
    launcher = launchers.running()
    simulations = [launcher.started(DAEMON), launcher.paused()]
    simulations[0].await_steps()
    launcher.kill()
    for simulation in simulations:
        wait_until(lambda simulation=simulation: not simulation.processes())  # type: ignore[misc]
    launcher.restart()
    finals = [simulation.await_final() for simulation in simulations]
    for simulation, final in zip(simulations, finals, strict=True):
        assert final["event"] == "failed"
        assert "The launcher ended while the simulation ran" in final["reason"]
        assert final["incarnation"] == simulation.incarnation
        # Also for a gateway that has given the simulation up meanwhile:
        wait_until(lambda simulation=simulation: simulation.archives)  # type: ignore[misc]
        assert simulation.archives[-1] == {"logs": final["logs"], "results": final["results"]}
        before = [each["seq"] for each in simulation.lifecycle if each["event"] != "failed"]  # that may be said twice
        assert final["seq"] > max(before)
        simulation.assert_nothing_is_left()
    assert "the script says this" in simulations[0].log_in(finals[0]["logs"])
    assert simulations[0].stored(finals[0]["results"]) == {"result.txt": b"42"}
    assert spool_entries(launcher) == []


def test_simulation_that_was_being_cloned_is_failed_by_the_next_one(launchers: Launchers) -> None:
    launcher = launchers.running()
    launcher.storage.hang("/storage/")
    simulation = launcher.launch()
    launcher.kill()
    launcher.storage.heal()
    launcher.restart()
    final = simulation.await_final()
    assert (final["event"], final["logs"]) == ("failed", None)
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
