"""An engine in a process of its own: when it dies or hangs its simulation fails or stops, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil

from tests.launchers import Launched, RunningLauncher
from tests.waiting import wait_until

ENGINE = """
import os
from nrp_core.engines.python_json import EngineScript

class Script(EngineScript):
    def initialize(self):
        print("initialised")
        with open("engine.pid", "w") as file:
            file.write(str(os.getpid()))

    def runLoop(self, timestep_ns):
        if os.path.exists("hang"):
            while True:
                pass
        if os.path.exists("die"):
            print("the last thing it said")
            os._exit(9)
        if os.path.exists("raise"):
            raise ValueError("not this")

    def shutdown(self):
        print("shut down")
"""

PACED = "import time\nwhile True:\n    nrp.run_loop()\n    time.sleep(0.005)\n"


def started(launcher: RunningLauncher, script: str = PACED, **engine: Any) -> Launched:
    entry = {"EngineName": "own", "EngineType": "python_json", "PythonFileName": "engine.py", **engine}
    return launcher.started(script, configuration={"EngineConfigs": [entry]}, files={"engine.py": ENGINE})


def apart(launcher: RunningLauncher, **engine: Any) -> Launched:
    return started(launcher, EngineExtraConfigs={"OwnProcess": True}, **engine)


def engine_of(simulation: Launched) -> int:
    """The process id of its engine."""
    return int((simulation.folder / "experiment" / "engine.pid").read_text())


def tell(simulation: Launched, what: str) -> None:
    (simulation.folder / "experiment" / what).touch()


def test_what_it_prints_is_in_the_simulations_log(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    assert engine_of(simulation) != simulation.server
    simulation.command("stopped")
    log = simulation.log_in(simulation.await_final()["logs"])
    assert log.index("initialised") < log.index("shut down")
    simulation.assert_nothing_is_left()


def test_one_that_dies_fails_the_simulation_with_its_last_words(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    tell(simulation, "die")
    final = simulation.await_final()
    assert (final["event"], final["source_state"]) == ("failed", "started")
    assert "engine 'own': its process ended with status 9 during runLoop" in final["reason"]
    assert "the last thing it said" in final["reason"]
    assert [error["error_type"] for error in simulation.await_errors()] == ["Runtime"]
    simulation.assert_nothing_is_left()


def test_one_that_is_killed_fails_the_simulation_that_steps_it(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    os.kill(engine_of(simulation), signal.SIGKILL)
    final = simulation.await_final()
    assert (final["event"], "was ended by SIGKILL" in final["reason"]) == ("failed", True)
    simulation.assert_nothing_is_left()


def test_an_exception_in_it_names_file_line_and_text(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    tell(simulation, "raise")
    simulation.await_final()
    [error] = simulation.await_errors()
    assert error["msg"] == "ValueError in engine.py (Line 19): not this"
    assert (error["fileName"], error["line_number"]) == ("engine.py", 19)
    assert error["line_text"] == 'raise ValueError("not this")'
    log = simulation.log_in(simulation.finals[-1]["logs"])
    assert 'raise ValueError("not this")' in log
    assert "engine_host.py" not in log


def test_one_that_hangs_longer_than_its_command_timeout_fails_the_simulation(launcher: RunningLauncher) -> None:
    simulation = started(launcher, EngineCommandTimeout=3)
    simulation.await_steps()
    tell(simulation, "hang")
    final = simulation.await_final()
    assert (
        "engine 'own' took longer than EngineCommandTimeout, 3 s, for runLoop; it was in engine.py" in final["reason"]
    )
    simulation.assert_nothing_is_left()


def test_a_simulation_stops_although_it_hangs(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    tell(simulation, "hang")
    engine = psutil.Process(engine_of(simulation))
    before = engine.cpu_times().user
    wait_until(lambda: engine.cpu_times().user > before + 0.5)
    asked_at = time.monotonic()
    assert simulation.command("stopped").error is None
    assert simulation.await_final()["event"] == "stopped"
    assert time.monotonic() - asked_at < 10
    simulation.assert_nothing_is_left()


def test_it_ends_with_a_simulation_server_that_is_killed(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    engine = engine_of(simulation)
    os.kill(simulation.server, signal.SIGKILL)
    assert simulation.await_final()["event"] == "failed"
    wait_until(lambda: not psutil.pid_exists(engine))
    simulation.assert_nothing_is_left()


def test_a_simulation_is_reset_with_it(launcher: RunningLauncher) -> None:
    simulation = apart(launcher)
    simulation.await_steps()
    assert simulation.command("reset").error is None
    wait_until(lambda: simulation.simulation_time == 0.0)
    assert simulation.command("started").error is None
    simulation.await_steps()
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"
