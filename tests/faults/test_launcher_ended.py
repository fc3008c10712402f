"""A launcher that is told to end stops its simulations, stores their logs, leaves nothing; or leaves them running."""

from __future__ import annotations

import os
import signal

import psutil

from nrp_common.bus import BrokerAddress
from nrp_common.messages import Refusal
from tests.launchers import Launchers
from tests.mosquitto import Mosquitto
from tests.simulation_servers import Wire
from tests.waiting import wait_until


def test_simulations_are_stopped_with_their_logs_stored_and_nothing_is_left(
    launchers: Launchers, broker: BrokerAddress
) -> None:
    launcher = launchers.running()
    simulations = [launcher.started("print('the script says this')\nwhile True: nrp.run_loop()"), launcher.paused()]
    simulations[0].await_steps()
    family = psutil.Process(launcher.process.pid).children(recursive=True)
    assert launcher.end() == 0
    for simulation in simulations:
        final = simulation.await_final()
        assert (final["event"], final["reason"]) == ("stopped", "The launcher was ended")
        assert simulation.log_in(final["logs"]) is not None
        simulation.assert_nothing_is_left()
    assert not [process for process in family if process.is_running()]
    late = Wire(broker)
    try:
        expected = {simulation.topics.status(simulation.id) for simulation in simulations}
        expected |= {simulation.topics.lifecycle(simulation.id) for simulation in simulations}
        wait_until(
            lambda: {seen.topic for seen in late.seen if seen.topic.startswith(launcher.topics.prefix)} == expected
        )
    finally:
        late.close()


def test_launch_that_hangs_does_not_hold_it_up(launchers: Launchers) -> None:
    launcher = launchers.running()
    launcher.storage.hang("/storage/")
    simulation = launcher.launch()
    assert launcher.end(timeout=15) == 0  # a request to the storage gives up after 30 s
    assert simulation.await_final()["event"] == "stopped"
    simulation.assert_nothing_is_left()


def test_launch_while_it_ends_is_refused(launchers: Launchers) -> None:
    launcher = launchers.running(stop_grace_s=60)
    simulation = launcher.started("import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass")
    launcher.process.terminate()
    launcher.await_closing()
    refused = launcher.ask_launch(1_000_001, simulation.experiment)
    assert (refused.refusal, refused.error) == (Refusal.FULL, "it is being shut down")
    os.kill(simulation.server, signal.SIGKILL)  # which it waits for
    assert launcher.process.wait(20) == 0


def test_final_word_that_no_broker_took_is_spoken_by_the_next_one(launchers: Launchers, mosquitto: Mosquitto) -> None:
    launcher = launchers.running(broker=mosquitto.address)
    simulation = launcher.paused()
    mosquitto.stop()
    assert launcher.end(timeout=15) == 0
    assert not simulation.processes()
    mosquitto.start()
    launcher.restart()
    final = simulation.await_final()
    assert (final["event"], final["reason"]) == ("stopped", "The launcher was ended")
    assert simulation.log_in(final["logs"]) is not None
    simulation.assert_nothing_is_left()


# -- leaving them to the next one --------------------------------------------------------------------------------------


def test_simulations_that_it_leaves_run_on_and_are_adopted_by_the_next_one(launchers: Launchers) -> None:
    launcher = launchers.running(on_shutdown="leave")
    simulations = [launcher.started(), launcher.paused()]
    servers = [simulation.server for simulation in simulations]
    assert launcher.end() == 0
    simulations[0].await_steps()
    assert simulations[1].command("started").error is None
    launcher.restart()
    assert [simulation.server for simulation in simulations] == servers
    for simulation in simulations:
        simulation.await_steps()
        simulation.command("stopped")
        final = simulation.await_final()
        assert (final["event"], final["reason"]) == ("stopped", None)
        assert simulation.log_in(final["logs"]) is not None
        simulation.assert_nothing_is_left()


def test_launch_and_stop_that_are_under_way_are_brought_to_their_ends_before_it_leaves(launchers: Launchers) -> None:
    launcher = launchers.running(on_shutdown="leave")
    launcher.storage.hang("/storage/")
    launching = launcher.launch()
    wait_until(lambda: launcher.storage.count(path=launching.experiment))
    launcher.process.send_signal(signal.SIGTERM)
    launcher.await_closing()
    refused = launcher.ask_launch(1_000_002, launching.experiment)
    assert (refused.refusal, refused.error) == (Refusal.FULL, "it is being shut down")
    launcher.storage.heal()
    assert launcher.process.wait(20) == 0
    launching.await_transition("initialized")
    assert launching.command("started").error is None
    launching.await_steps()
    launcher.restart()
    stopping = launching
    launcher.storage.hang(".zip")
    stopping.command("stopped")
    wait_until(lambda: launcher.storage.count("POST", f"_simulation_{stopping.id}."))
    launcher.process.send_signal(signal.SIGTERM)
    launcher.storage.heal()
    assert launcher.process.wait(20) == 0
    assert stopping.await_final()["event"] == "stopped"
    stopping.assert_nothing_is_left()
    assert launcher.spawners == []


def test_nothing_runs_on_when_there_is_nothing_to_leave(launchers: Launchers) -> None:
    launcher = launchers.running(on_shutdown="leave")
    wait_until(lambda: launcher.idle)
    assert launcher.end() == 0
    assert launcher.spawners == []
