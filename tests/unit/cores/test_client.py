"""The embedded core, called as nrp_client's NrpCore is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import ConfigurationError
from nrp_simserver.cores.client import overrides_in
from nrp_simserver.cores.embedded import NrpCore
from tests.unit.cores.experiment import Experiment, seen
from tests.waiting import wait_until

DONE_AT_THREE = """
@SimulationIteration(keyword="iteration")
@StatusFunction()
def status(iteration):
    out = JsonDataPack("status", "a")
    out.data["iteration"] = iteration
    return iteration == 3, [out]
"""

FAILING = """
class Script(EngineScript):
    def initialize(self): pass
    def runLoop(self, timestep_ns): raise ValueError("broken")
"""


@pytest.fixture
def made(tmp_path: Path) -> Experiment:
    experiment = Experiment(tmp_path).engine("a")
    experiment.core(SimulationTimeout=0.1)
    return experiment


def client(experiment: Experiment, **arguments: Any) -> NrpCore:
    return NrpCore("localhost:50051", experiment_folder=str(experiment.folder), **arguments)


def test_a_master_script_of_nrp_client_runs(made: Experiment) -> None:
    nrp = client(made, config_file="simulation_config.json", log_output=".console_output.log", server_timeout=5)
    assert nrp.current_state() == "Created"
    nrp.initialize()
    assert nrp.run_loop(3) == (False, [])
    nrp.set_json_datapack("inbox", "a", {"x": 1})
    assert nrp.run_until_timeout() == (False, True, [])
    nrp.reset()
    assert nrp.current_state() == "Initialized"
    nrp.shutdown()


def test_the_folder_is_the_working_directory_when_none_is_given(
    made: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.folder)
    nrp = NrpCore("localhost:50051")
    nrp.initialize()
    nrp.shutdown()


def test_overrides_replace_what_the_file_says(made: Experiment) -> None:
    nrp = client(
        made, args="--logoutput=all -o SimulationTimeout=0.02 -o EngineConfigs.EngineName:a.EngineTimestep=0.02"
    )
    nrp.initialize()
    assert nrp.run_until_timeout() == (False, True, [])
    assert nrp._core.time_ns == 20_000_000
    nrp.shutdown()


@pytest.mark.parametrize(
    ("args", "overrides"),
    [
        ("", {}),
        ("-o SimulationTimeout=5", {"SimulationTimeout": 5}),
        ('-o EngineConfigs.0.MQTTBroker="host:1883" -v', {"EngineConfigs.0.MQTTBroker": "host:1883"}),
        ("-o EngineConfigs.EngineName:x.MQTTBroker=host:1883", {"EngineConfigs.EngineName:x.MQTTBroker": "host:1883"}),
        ('-o Name="two words"', {"Name": "two words"}),
    ],
)
def test_overrides_are_read_as_nrpcoresim_reads_them(args: str, overrides: dict[str, Any]) -> None:
    assert overrides_in(args) == overrides


@pytest.mark.parametrize("args", ["-o", "-o SimulationTimeout", '-o Name="open'])
def test_options_that_say_nothing_are_refused(args: str) -> None:
    with pytest.raises(ConfigurationError):
        overrides_in(args)


def test_a_run_in_the_background_appends_its_result(made: Experiment) -> None:
    nrp, response = client(made), []
    nrp.initialize()
    thread = nrp.run_loop(5, run_async=True, response=response)
    assert isinstance(thread, threading.Thread)
    thread.join(10)
    assert response == [(False, [])]
    nrp.shutdown()


def test_stop_ends_a_run_in_the_background(made: Experiment) -> None:
    nrp, response = client(made, args="-o SimulationTimeout=0"), []
    nrp.initialize()
    thread = nrp.run_until_timeout(run_async=True, response=response)
    assert isinstance(thread, threading.Thread)
    wait_until(lambda: nrp._core.time_ns > 0)
    nrp.stop()
    thread.join(10)
    assert response == [(False, False, [])]
    assert nrp.current_state() == "Stopped"
    nrp.shutdown()


WAITING = """
class Script(EngineScript):
    def runLoop(self, timestep_ns):
        seen[0].wait(10)
"""


def test_while_a_run_goes_on_in_the_background_other_calls_are_not_allowed(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path).engine("a", WAITING)
    experiment.core()
    seen[:] = [go_on := threading.Event()]
    nrp, response = client(experiment), []
    nrp.initialize()
    thread = nrp.run_loop(1, run_async=True, response=response)
    for call in (nrp.run_loop, nrp.reset, lambda: nrp.run_until_timeout(run_async=True)):
        with pytest.raises(ConnectionError, match="Can't process request: the state is Running"):
            call()
    go_on.set()
    assert isinstance(thread, threading.Thread)
    thread.join(10)
    assert response == [(False, [])]
    nrp.shutdown()


def test_a_run_of_many_steps_returns_what_was_gathered_in_all_of_them(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path).engine("a").status(DONE_AT_THREE)
    experiment.core()
    nrp = client(experiment)
    nrp.initialize()
    done, trajectory = nrp.run_loop(6)  # type: ignore[misc]
    assert done
    assert trajectory == [{"iteration": iteration} for iteration in range(6)]
    nrp.shutdown()


def test_done_ends_a_run_until_the_timeout_with_the_trajectory(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path).engine("a").status(DONE_AT_THREE)
    experiment.core(SimulationTimeout=0.1)
    nrp = client(experiment)
    nrp.initialize()
    done, timed_out, trajectory = nrp.run_until_timeout()  # type: ignore[misc]
    assert (done, timed_out) == (True, False)
    assert len(trajectory) == 4
    nrp.shutdown()


def test_after_a_failure_only_shutdown_is_left(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path).engine("a", FAILING)
    experiment.core()
    nrp = client(experiment)
    nrp.initialize()
    with pytest.raises(RuntimeError, match="broken"):
        nrp.run_loop(2)
    assert nrp.current_state() == "Failed"
    with pytest.raises(ConnectionError, match="Can't process request"):
        nrp.run_loop()
    nrp.shutdown()


def test_what_the_state_does_not_allow_is_a_connection_error(made: Experiment) -> None:
    nrp = client(made)
    for call in (nrp.run_loop, nrp.run_until_timeout, nrp.reset):
        with pytest.raises(ConnectionError, match="Can't process request"):
            call()
    nrp.shutdown()


def test_after_shutdown_there_is_no_process_any_more(made: Experiment) -> None:
    nrp = client(made)
    nrp.initialize()
    nrp.shutdown()
    with pytest.raises(ChildProcessError):
        nrp.run_loop()
    with pytest.raises(ChildProcessError):
        nrp.run_loop(run_async=True)
