"""The nrpcoresim core drives the program NRPCoreSim: a stand-in that misbehaves, and the real one where it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nrp_common.bus import BrokerAddress
from nrp_common.errors import CallNotAllowed, CoreFailed, CoreLost, CoreNotReady, EngineUnavailable
from nrp_simserver import processes
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from tests.brokers import plain_port
from tests.nrpcoresim import behave, calls, dump, engines, install
from tests.simulation_servers import SimulationServers, Wire
from tests.waiting import wait_until

REAL_PROGRAM = shutil.which("NRPCoreSim")

MINIMAL = Path(__file__).parents[1] / "fixtures/reference/experiments/a_two_equal"

ENGINES = [{"EngineName": "robot", "EngineType": "gazebo_grpc", "EngineTimestep": 0.01}]
STATUS = {"StatusFunction": {"Name": "status", "FileName": "status.py"}}
TRANSFER = {"EngineName": "transfer", "EngineType": "datatransfer_grpc_engine", "EngineTimestep": 0.01}

Launch = Callable[..., NRPCoreSim]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "status.py").write_text("")
    return folder


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, on the PATH."""
    program = install(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


@pytest.fixture
def launch(folder: Path, program: Path) -> Iterator[Launch]:
    """Makes the core of an experiment whose NRPCoreSim behaves in some way."""
    made: list[NRPCoreSim] = []

    def launch(configuration: dict[str, Any] | None = None, /, timeout: float = 30.0, **behaviour: Any) -> NRPCoreSim:
        tree = {"EngineConfigs": ENGINES, "SimulationTimeout": 0, **(configuration or {})}
        (folder / "simulation_config.json").write_text(json.dumps(tree))
        behave(folder, **behaviour)
        made.append(NRPCoreSim(folder, options=NRPCoreSimOptions(start_timeout_s=timeout)))
        return made[-1]

    yield launch
    for core in made:
        core.shutdown()


def started(core: NRPCoreSim) -> NRPCoreSim:
    core.initialize()
    return core


def step(number: int) -> list[Any]:
    """What the stand-in adds to a trajectory in a step."""
    return [dump.String(string_stream=f"step {number}"), {"step": number}]  # type: ignore[attr-defined]


def asked(folder: Path) -> list[str]:
    return [call for call, _ in calls(folder)]


# -- the calls -------------------------------------------------------------------------------------------------------


def test_initialize_starts_the_engines_and_returns_the_observations(launch: Launch, folder: Path) -> None:
    core = launch()
    assert core.current_state() == "Created"
    assert core.initialize() == step(0)
    assert core.current_state() == "Initialized"
    assert all(psutil.pid_exists(engine) for engine in engines(folder))


def test_run_loop_advances_and_tells_no_trajectory_before_it_is_done(launch: Launch, folder: Path) -> None:
    core = started(launch())
    assert core.run_loop() == (False, [])
    assert core.current_state() == "Stopped"
    assert core.run_loop(20) == (False, [])
    assert sum(details["steps"] for call, details in calls(folder) if call == "runLoop") == 21


def test_done_in_the_middle_of_many_steps_is_told_with_the_trajectory_until_then(launch: Launch) -> None:
    core = started(launch(STATUS, done_at=3))
    assert core.run_loop(5) == (True, [*step(1), *step(2), *step(3)])
    assert core.run_loop() == (False, [])


def test_run_until_timeout_ends_at_the_timeout_and_hands_out_what_was_gathered(launch: Launch, folder: Path) -> None:
    core = started(launch({"SimulationTimeout": 1, "EngineConfigs": [{**ENGINES[0], "EngineTimestep": 0.25}]}))
    assert core.run_until_timeout() == (False, True, [*step(1), *step(2), *step(3), *step(4)])
    assert core.run_until_timeout() == (False, True, [])
    assert asked(folder)[-1] == "runUntilTimeout"


def test_run_until_timeout_ends_when_done(launch: Launch) -> None:
    core = started(launch({"SimulationTimeout": 1, **STATUS}, done_at=3))
    assert core.run_until_timeout() == (True, False, [*step(1), *step(2), *step(3)])


def test_a_timeout_that_the_program_would_cut_to_whole_seconds_counts_in_full(launch: Launch, folder: Path) -> None:
    core = started(launch({"SimulationTimeout": 0.05}))
    assert core.run_until_timeout() == (False, True, [])
    assert sum(details["steps"] for call, details in calls(folder) if call == "runLoop") == 5
    assert "runUntilTimeout" not in asked(folder)


def test_reset_begins_again_at_t_0(launch: Launch) -> None:
    core = started(launch({"SimulationTimeout": 0.02}))
    core.run_loop()
    assert core.reset() == step(0)
    assert core.current_state() == "Initialized"
    core.run_loop()
    assert core.run_until_timeout()[1]


def test_datapacks_go_with_the_next_request_and_the_last_of_a_name_wins(launch: Launch, folder: Path) -> None:
    core = started(launch())
    core.set_json_datapack("goal", "robot", {"x": 1})
    core.set_json_datapack("goal", "robot", {"x": [1.5, None, "a,b"]})
    core.set_proto_datapack("words", "robot", dump.String(string_stream="go"))
    core.run_loop()
    core.run_loop()
    core.set_json_datapack("goal", "robot", 3)
    core.reset()
    told = [details.get("told") for call, details in calls(folder) if call in ("runLoop", "reset")]
    assert told == [
        {"robot/goal: JsonDataPack": {"x": [1.5, None, "a,b"]}, "robot/words: Dump.String": "go"},
        None,
        {"robot/goal: JsonDataPack": 3},
    ]


def test_datapacks_that_cannot_be_delivered_are_refused(launch: Launch) -> None:
    core = started(launch())
    with pytest.raises(ValueError, match="there is no engine 'nobody'; engines are: robot"):
        core.set_json_datapack("goal", "nobody", {})
    with pytest.raises(TypeError):
        core.set_json_datapack("goal", "robot", {"x": object()})
    with pytest.raises(TypeError, match="has to be a protobuf message"):
        core.set_proto_datapack("goal", "robot", {})


@pytest.mark.parametrize("iterations", [0, -1])
def test_less_than_a_step_is_a_value_error(launch: Launch, iterations: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        started(launch()).run_loop(iterations)


def test_calls_that_the_state_does_not_allow_are_connection_errors(launch: Launch) -> None:
    core = launch(refuses="reset")
    for call in (core.run_loop, core.reset, core.run_until_timeout):
        with pytest.raises(ConnectionError, match="Can't process request"):
            call()
    core.initialize()
    with pytest.raises(CallNotAllowed):
        core.initialize()
    with pytest.raises(CallNotAllowed, match="Can't process request"):
        core.reset()
    assert core.current_state() == "Initialized"
    core.run_loop()


def test_many_quick_steps_are_few_calls_none_of_which_takes_long(launch: Launch, folder: Path) -> None:
    core = started(launch(step_s=0.01))
    core.run_loop(40)
    steps = [details["steps"] for call, details in calls(folder) if call == "runLoop"]
    assert sum(steps) == 40
    assert steps[:3] == [1, 2, 4]
    assert max(steps) <= 10


# -- overrides -------------------------------------------------------------------------------------------------------


def test_data_transfer_engines_are_told_the_simulation_and_the_broker(
    folder: Path, program: Path, launch: Launch
) -> None:
    configuration = launch({"EngineConfigs": [*ENGINES, TRANSFER]}, refuses="initialize").configuration
    run = configuration.of_simulation(7, 'lab "1", east', "bus:1883")
    core = NRPCoreSim(folder, configuration=run, overrides={"SimulationTimeout": 5})
    with pytest.raises(CallNotAllowed):  # there is no such broker
        core.initialize()
    core.shutdown()
    seen = calls(folder)[0][1]["configuration"]
    assert seen["SimulationTimeout"] == 5
    assert seen["EngineConfigs"][0] == ENGINES[0]
    told = {"simulationID": "7", "MQTTBroker": "bus:1883", "MQTTPrefix": 'lab "1", east'}
    assert seen["EngineConfigs"][1] == {**TRANSFER, **told}


# -- misbehaviour ----------------------------------------------------------------------------------------------------


def test_a_slow_start_is_waited_for(launch: Launch) -> None:
    assert launch(start_s=1.0).initialize() == step(0)


def test_a_start_that_takes_too_long_is_a_timeout_and_leaves_nothing_running(launch: Launch, folder: Path) -> None:
    core = launch(start_s=60.0, timeout=2.0)
    with pytest.raises(CoreNotReady, match="within 2 s") as caught:
        core.initialize()
    assert isinstance(caught.value, TimeoutError)
    assert core.current_state() == "Failed"
    assert working_in(folder) == []


def test_a_program_that_dies_at_its_start_is_told_at_once_with_its_last_words(launch: Launch) -> None:
    core = launch(exits_at_start=127, timeout=60.0)
    began_at = time.monotonic()
    with pytest.raises(CoreLost, match=r"ended with status 127; .*\n.*\nlibgazebo.so: cannot open"):
        core.initialize()
    assert time.monotonic() - began_at < 20


def test_a_program_that_is_not_there_is_named(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineUnavailable, match="no program NRPCoreSim"):
        launch().initialize()


def test_a_simulation_that_cannot_be_initialised_says_why(launch: Launch) -> None:
    core = launch(fails_to_initialize="no such world")
    with pytest.raises(RuntimeError, match="failed in initialize: no such world"):
        core.initialize()
    assert core.current_state() == "Failed"


def test_a_program_that_dies_in_a_step_is_told_with_its_last_words(launch: Launch) -> None:
    core = started(launch(dies_at=3))
    with pytest.raises(CoreLost, match=r"was ended by SIGSEGV(?s:.*)step 3: something terrible happened"):
        core.run_loop(10)
    assert core.current_state() == "Failed"


def test_a_program_that_was_killed_between_two_calls_is_told(launch: Launch, folder: Path) -> None:
    core = started(launch())
    (server,) = [each for each in working_in(folder) if "--server_address" in each.cmdline()]
    server.kill()
    with pytest.raises(ConnectionError, match="was ended by SIGKILL"):
        core.run_loop()


def test_of_a_simulation_that_failed_only_the_shutdown_is_left(launch: Launch, folder: Path) -> None:
    core = started(launch(fails_at=2))
    core.run_loop()
    with pytest.raises(RuntimeError, match="failed in runLoop: engine 'robot' fell over"):
        core.run_loop()
    assert core.current_state() == "Failed"
    for call in (core.run_loop, core.reset, core.run_until_timeout, core.initialize):
        with pytest.raises(CallNotAllowed):
            call()
    core.shutdown()
    assert core.current_state() == "Created"
    assert asked(folder)[-1] == "shutdown"


def test_a_failure_in_a_file_of_the_experiment_names_file_and_line(launch: Launch, folder: Path) -> None:
    trace = f'Traceback:\n  File "{folder}/status.py", line 4, in f\n  File "/usr/lib/x.py", line 9, in g\nKeyError: 1'
    core = started(launch(fails_at=1, failure=trace))
    with pytest.raises(CoreFailed, match="KeyError: 1") as caught:
        core.run_loop()
    assert (caught.value.file, caught.value.line) == ("status.py", 4)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("places", r"its 2 entries have the places \[0, 0\]"),
        ("json", "an entry is not JSON"),
        ("type", "sent a Unheard.Of: neither"),
        ("bytes", "an entry is no Dump.String"),
    ],
)
def test_a_wrong_trajectory_is_an_error(launch: Launch, wrong: str, complaint: str) -> None:
    core = launch(wrong=wrong)
    with pytest.raises(CoreFailed, match=complaint):
        core.initialize()
    assert core.current_state() == "Failed"


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stays", [False, True])
def test_shutdown_leaves_no_process_also_of_a_program_that_does_not_end(
    launch: Launch, folder: Path, stays: bool
) -> None:
    core = started(launch({"EngineConfigs": [*ENGINES, {**ENGINES[0], "EngineName": "other"}]}, stays=stays))
    core.run_loop()
    assert len(engines(folder)) == 2
    began_at = time.monotonic()
    core.shutdown()
    assert time.monotonic() - began_at < 8
    assert working_in(folder) == []
    assert all(processes.has_ended(engine) for engine in engines(folder))


def test_shutdown_ends_the_engines_of_a_program_that_died(launch: Launch, folder: Path) -> None:
    core = started(launch(dies_at=1))
    with pytest.raises(CoreLost):
        core.run_loop()
    core.shutdown()
    assert all(processes.has_ended(engine) for engine in engines(folder))


def test_shutdown_may_be_called_in_any_state_and_repeatedly(launch: Launch) -> None:
    core = launch()
    core.shutdown()
    core.initialize()
    core.shutdown()
    core.shutdown()
    assert core.current_state() == "Created"
    assert core.initialize() == step(0)


def test_what_interrupts_a_call_stops_the_loop(launch: Launch, folder: Path) -> None:
    core = started(launch(step_s=30.0))
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(KeyboardInterrupt):
        core.run_loop()
    assert core.current_state() == "Stopped"
    assert asked(folder)[-1] == "stopLoop"


def test_the_program_dies_with_the_process_that_launched_it(launch: Launch, folder: Path) -> None:
    launch()
    source = (
        "import sys, time; from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim\n"
        "NRPCoreSim(sys.argv[1]).initialize(); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", source, folder], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"ready\n"
        launcher.kill()
    wait_until(lambda: not [each for each in working_in(folder) if "--server_address" in each.cmdline()])
    for engine in engines(folder):  # those of the real program see to it themselves
        os.kill(engine, signal.SIGKILL)


def test_launched_in_a_thread_it_outlives_that(launch: Launch) -> None:
    core = launch()
    thread = threading.Thread(target=core.initialize)
    thread.start()
    thread.join()
    assert core.run_loop() == (False, [])


# -- attaching -------------------------------------------------------------------------------------------------------


def test_a_server_that_runs_is_driven_and_goes_on_after_the_shutdown(
    launch: Launch, folder: Path, program: Path
) -> None:
    launch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program, "-c", "simulation_config.json", "-m", "server", "--server_address", address]
    options = ["--logoutput=all", "--logfilename=.console_output.log"]
    server = subprocess.Popen([*command, *options], cwd=folder)
    try:
        for _ in range(2):
            core = NRPCoreSim(folder, options=NRPCoreSimOptions(address=address, start_timeout_s=30))
            assert core.initialize() == step(0)
            assert core.run_loop() == (False, [])
            core.shutdown()
        assert server.poll() is None
        core.initialize()
        server.kill()
        server.wait()
        with pytest.raises(CoreLost, match=f"NRPCoreSim at {address} is gone"):
            core.run_loop()
        core.shutdown()
    finally:
        server.kill()
        server.wait()
        for engine in engines(folder):
            if not processes.has_ended(engine):
                os.kill(engine, signal.SIGKILL)


def test_an_address_that_nobody_serves_is_a_timeout(launch: Launch, folder: Path) -> None:
    launch()
    core = NRPCoreSim(folder, options=NRPCoreSimOptions(address="127.0.0.1:1", start_timeout_s=0.3))
    with pytest.raises(CoreNotReady, match=r"127\.0\.0\.1:1 within 0\.3 s"):
        core.initialize()


# -- in a simulation -------------------------------------------------------------------------------------------------


def simulation_fields(program: Path) -> dict[str, Any]:
    return {
        "configuration": {"EngineConfigs": ENGINES},
        "setup": {"nrpcoresim": NRPCoreSimOptions(program=str(program))},
    }


def test_a_simulation_server_runs_an_experiment_with_it(servers: SimulationServers, program: Path) -> None:
    simulation = servers.paused("nrp.run_loop(1000)", **simulation_fields(program))
    assert simulation.command("step", iterations=3).state == "paused"
    wait_until(lambda: simulation.statuses[-1]["simulationTime"] == pytest.approx(0.03))
    simulation.command("started")
    simulation.await_transition("completed")
    folder = simulation.folder.experiment
    steps = [details["steps"] for call, details in calls(folder) if call == "runLoop"]
    assert steps[:3] == [1, 1, 1]
    assert sum(steps) == 1000
    assert len(steps) < 300
    simulation.command("stopped")
    simulation.await_end()
    assert working_in(folder) == []
    assert all(processes.has_ended(engine) for engine in engines(folder))


def test_a_simulation_is_stopped_in_the_middle_of_a_step(servers: SimulationServers, program: Path) -> None:
    simulation = servers.started(files={"stand_in.json": json.dumps({"step_s": 60})}, **simulation_fields(program))
    folder = simulation.folder.experiment
    wait_until(lambda: "runLoop" in asked(folder))
    simulation.command("stopped")
    simulation.await_end()
    assert simulation.journal.stopping
    assert working_in(folder) == []
    assert all(processes.has_ended(engine) for engine in engines(folder))


def test_a_simulation_that_fails_in_a_file_of_the_experiment_tells_where(
    servers: SimulationServers, program: Path
) -> None:
    failure = 'File "sense.py", line 2, in sense\nZeroDivisionError: division by zero'
    files = {"stand_in.json": json.dumps({"fails_at": 2, "failure": failure}), "sense.py": "def sense():\n    1 / 0\n"}
    simulation = servers.started(files=files, **simulation_fields(program))
    simulation.await_failure()
    wait_until(lambda: simulation.errors)
    (error,) = simulation.errors
    assert "ZeroDivisionError" in error["msg"]
    assert (error["error_type"], error["fileName"], error["line_number"]) == ("Runtime", "sense.py", 2)
    assert error["line_text"] == "1 / 0"


def test_a_simulation_whose_program_dies_fails_with_its_last_words(servers: SimulationServers, program: Path) -> None:
    files = {"stand_in.json": json.dumps({"dies_at": 2})}
    simulation = servers.started(files=files, **simulation_fields(program))
    assert "something terrible happened" in str(simulation.await_failure().error)
    assert working_in(simulation.folder.experiment) == []


@pytest.mark.parametrize("prefix", ["", "lab"])
def test_two_simulations_stream_data_at_once_each_on_its_own_topics(
    servers: SimulationServers, program: Path, broker: BrokerAddress, prefix: str
) -> None:
    options = NRPCoreSimOptions(program=str(program), broker=f"{broker.host}:{plain_port(broker)}")
    configuration = {"EngineConfigs": [*ENGINES, TRANSFER]}
    fields = {"configuration": configuration, "setup": {"nrpcoresim": options}, "prefix": prefix}
    simulations = [servers.paused("nrp.run_loop(); nrp.run_loop()", **fields) for _ in range(2)]
    for simulation in simulations:
        simulation.command("started")
    for simulation in simulations:
        simulation.await_transition("completed")
        wire, root = simulation.wire, simulation.topics.simulation(simulation.id, "")
        wait_until(lambda wire=wire, root=root: len(wire.on(f"{root}data/words")) == 2)
        words = [dump.String.FromString(seen.payload).string_stream for seen in wire.on(f"{root}data/words")]
        assert words == ["step 1", "step 2"]
        assert wire.on(f"{root}data")[-1].json == [{"topic": f"{root}data/words", "type": "Dump.String"}]
        assert wire.on(f"{root}welcome")[-1].payload == b"NRP-core is connected!"
        assert "disconnected" not in asked(simulation.folder.experiment)
    for simulation in simulations:
        simulation.command("stopped")
        simulation.await_end()
        root = simulation.topics.simulation(simulation.id, "")
        wait_until(lambda root=root: wire.on(f"{root}welcome")[-1].payload == b"Bye! NRP-core is disconnecting!")
    late = Wire(broker)
    late.publish("nrp_test/last", b"")
    wait_until(lambda: late.on("nrp_test/last"))
    late.close()
    assert [seen.topic for seen in late.seen if "nrp_core_sim" in seen.topic] == []


# -- the real program ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(REAL_PROGRAM is None, reason="the real NRPCoreSim is not on the PATH")
def test_the_real_program_does_what_the_embedded_core_does(tmp_path: Path) -> None:
    outcomes = []
    for made in (EmbeddedCore, NRPCoreSim):
        folder = shutil.copytree(MINIMAL, tmp_path / made.__name__)
        core = made(folder)
        try:
            outcomes.append([core.initialize(), core.run_loop(), core.run_loop(5), core.reset(), core.run_loop()])
        finally:
            core.shutdown()
        assert working_in(folder) == []
    assert outcomes[0] == outcomes[1]


def working_in(folder: Path) -> list[psutil.Process]:
    """The processes that run in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
