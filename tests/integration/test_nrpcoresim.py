"""The nrpcoresim core drives the program NRPCoreSim: a stand-in that misbehaves, and the real one where it is."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import psutil
import pytest
from google.protobuf.any_pb2 import Any as PackedMessage

from nrp_common.bus import BrokerAddress
from nrp_common.errors import CallNotAllowed, CoreFailed, CoreLost, CoreNotReady, EngineUnavailable
from nrp_simserver import processes
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.nrpcoresim import core as core_module
from nrp_simserver.cores.nrpcoresim import program as programs
from nrp_simserver.cores.nrpcoresim.console_log import LOG
from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.nrpcoresim.overrides import data_transfer_overrides
from tests.brokers import plain_port
from tests.nrpcoresim import CALLS, behave, calls, dump, engines, install
from tests.ports import free_port
from tests.simulation_servers import SimulationServers, Wire
from tests.waiting import wait_until

REAL_PROGRAM = shutil.which("NRPCoreSim")

MINIMAL = Path(__file__).parents[1] / "fixtures/reference/experiments/a_two_equal"

ENGINES = [{"EngineName": "robot", "EngineType": "gazebo_grpc", "EngineTimestep": 0.01}]
STATUS = {"StatusFunction": {"Name": "status", "FileName": "status.py"}}
TRANSFER = {"EngineName": "transfer", "EngineType": "datatransfer_grpc_engine", "EngineTimestep": 0.01}

PREFIX = """lab "1", 'east' $HOME \\ Zürich; a=b"""

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


def launches(folder: Path) -> list[list[str]]:
    """The arguments of each launch."""
    return [details["arguments"] for call, details in calls(folder) if call == "launched"]


# -- the calls -------------------------------------------------------------------------------------------------------


def test_initialize_starts_the_engines_and_returns_the_observations(launch: Launch, folder: Path) -> None:
    core = launch()
    assert core.current_state() == "Created"
    assert core.initialize() == step(0)
    assert core.current_state() == "Initialized"
    assert all(psutil.pid_exists(engine) for engine in engines(folder))


def test_the_program_is_launched_as_nrp_client_does(launch: Launch, folder: Path) -> None:
    core = launch()
    core = NRPCoreSim(folder, overrides={"SimulationTimeout": 5}, arguments=["-p", "plugin.so"])
    core.initialize()
    ((config, name, mode, server, option, address, *others),) = launches(folder)
    assert [config, name, mode, server, option] == ["-c", "simulation_config.json", "-m", "server", "--server_address"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    log = ["--logoutput=all", "--logfilename=.console_output.log"]
    assert others == [*log, "-o", "SimulationTimeout=5", "-p", "plugin.so"]
    core.shutdown()


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


def test_datapacks_of_a_request_that_is_refused_go_with_the_next_one(launch: Launch, folder: Path) -> None:
    core = started(launch(refuses="reset"))
    core.set_json_datapack("goal", "robot", 1)
    with pytest.raises(CallNotAllowed):
        core.reset()
    core.run_loop()
    assert calls(folder)[-1][1]["told"] == {"robot/goal: JsonDataPack": 1}


def test_messages_of_the_experiments_own_proto_files_go_both_ways(launch: Launch, folder: Path) -> None:
    (folder / "camera.proto").write_text(
        'syntax = "proto3"; package Camera; message Picture { string of = 1; repeated float pixels = 2; }'
    )
    core = started(launch(STATUS, done_at=1, echoes=True))
    picture = importlib.import_module("nrp_protobuf.camera_pb2").Picture(of="a cube", pixels=[0.5, 1.0])
    core.set_proto_datapack("seen", "robot", picture)
    assert core.run_loop() == (True, [*step(1), picture])
    assert calls(folder)[-1][1]["told"] == {"robot/seen: Camera.Picture": "type.googleapis.com/Camera.Picture"}


def test_observations_of_a_type_that_nobody_knows_stay_packed(launch: Launch) -> None:
    message, value = launch(wrong="type").initialize()
    assert isinstance(message, PackedMessage)
    assert (message.TypeName(), value) == ("Unheard.Of", {"step": 0})


@pytest.mark.parametrize(("says", "is_in"), [("", "Stopped"), ("Sleeping", "Stopped"), ("Running", "Running")])
def test_a_program_that_does_not_tell_the_state_it_is_in_can_be_asked_to_go_on(
    launch: Launch, says: str, is_in: str
) -> None:
    core = started(launch(says=says))
    core.run_loop()
    assert core.current_state() == is_in
    core.run_loop()


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


def test_many_quick_steps_are_few_calls_none_of_which_takes_long(
    launch: Launch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps_of_calls() -> list[int]:
        return [details["steps"] for call, details in calls(folder) if call == "runLoop"]

    core = started(launch())
    ten_milliseconds_a_step = SimpleNamespace(perf_counter=lambda: 0.01 * sum(steps_of_calls()))
    monkeypatch.setattr(core_module, "time", ten_milliseconds_a_step)
    core.run_loop(40)
    steps = steps_of_calls()
    assert sum(steps) == 40
    assert steps[:3] == [1, 2, 4]
    assert max(steps) <= 10


# -- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_arrive_whatever_is_in_them(folder: Path, launch: Launch) -> None:
    configuration = launch({"EngineConfigs": [*ENGINES, TRANSFER]}, refuses="initialize").configuration
    run = configuration.of_simulation(7, PREFIX, "bus:1883")
    core = NRPCoreSim(folder, overrides={**data_transfer_overrides(run), "SimulationTimeout": 5})
    with pytest.raises(CallNotAllowed):  # there is no such broker
        core.initialize()
    core.shutdown()
    seen = calls(folder)[0][1]["configuration"]
    assert seen["SimulationTimeout"] == 5
    assert seen["EngineConfigs"][0] == ENGINES[0]
    told = {"simulationID": "7", "MQTTBroker": "bus:1883", "MQTTPrefix": PREFIX}
    assert seen["EngineConfigs"][1] == {**TRANSFER, **told}


# -- misbehaviour ----------------------------------------------------------------------------------------------------


def test_a_slow_start_is_waited_for(launch: Launch) -> None:
    assert launch(start_s=1.0).initialize() == step(0)


def test_a_start_that_takes_too_long_is_a_timeout_and_leaves_nothing_running(launch: Launch, folder: Path) -> None:
    core = launch(start_s=60.0, timeout=6.0)
    with pytest.raises(CoreNotReady, match=r"within 6 s; the end of .console_output.log:\nNRPCoreSim starts") as caught:
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
    with pytest.raises(EngineUnavailable, match=r"run engine 'robot' \(gazebo_grpc\), and there is no program NRPC"):
        launch().initialize()


def test_a_program_that_is_none_is_told(launch: Launch, program: Path) -> None:
    program.write_bytes(b"\x7fnonsense")
    with pytest.raises(EngineUnavailable, match=f"{program} cannot be started in .*: .*Exec format error"):
        launch().initialize()


def test_an_address_that_somebody_took_meanwhile_is_replaced_by_another(
    launch: Launch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        offer(taken, monkeypatch)
        assert launch().initialize() == step(0)
    assert f"127.0.0.1:{taken}" not in launches(folder)[-1]


def test_an_address_that_another_server_shares_is_replaced_by_another(
    launch: Launch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody = grpc.server(futures.ThreadPoolExecutor(1))
    taken = somebody.add_insecure_port("127.0.0.1:0")
    somebody.start()
    offer(taken, monkeypatch)
    assert launch().initialize() == step(0)
    assert f"127.0.0.1:{taken}" not in launches(folder)[-1]
    somebody.stop(None).wait()


def test_an_address_that_is_taken_again_and_again_is_told(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        monkeypatch.setattr(programs, "_free_port", lambda: somebody.getsockname()[1])
        with pytest.raises(CoreLost, match=f"Somebody else listens at 127.0.0.1:{somebody.getsockname()[1]}"):
            launch().initialize()


def test_a_program_that_ends_because_its_address_is_taken_is_launched_again(launch: Launch, folder: Path) -> None:
    assert launch(starts_in_vain=2).initialize() == step(0)
    assert len(launches(folder)) == 3


def test_a_simulation_that_cannot_be_initialised_says_why(launch: Launch) -> None:
    core = launch(fails_to_initialize="no such world")
    with pytest.raises(RuntimeError, match="failed in initialize: no such world"):
        core.initialize()
    assert core.current_state() == "Failed"


def test_a_program_that_dies_in_a_step_is_told_with_its_last_words(launch: Launch) -> None:
    core = started(launch(dies_at=3))
    with pytest.raises(CoreLost, match=r"was ended by SIGSEGV in runLoop(?s:.*)step 3: something terrible happened"):
        core.run_loop(10)
    assert core.current_state() == "Failed"


def test_a_program_that_was_killed_between_two_calls_is_told(launch: Launch, folder: Path) -> None:
    core = started(launch())
    (server,) = servers_in(folder)
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


def test_a_program_that_dies_over_a_file_of_the_experiment_names_file_and_line(launch: Launch, folder: Path) -> None:
    (folder / "engine.py").write_text("")
    core = started(launch(dies_at=1))
    with (folder / LOG).open("a") as log:
        log.write(f'  File "{folder}/engine.py", line 7, in runLoop\n')
    with pytest.raises(CoreLost) as caught:
        core.run_loop()
    assert (caught.value.file, caught.value.line) == ("engine.py", 7)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("places", "of its 2 entries none is number 1"),
        ("json", "an entry is not JSON"),
        ("type", "sent a Unheard.Of: neither"),
        ("bytes", "an entry is no Dump.String"),
    ],
)
def test_a_wrong_trajectory_is_an_error(launch: Launch, wrong: str, complaint: str) -> None:
    core = started(launch(STATUS, done_at=1, wrong_from=1, wrong=wrong))
    with pytest.raises(CoreFailed, match=complaint):
        core.run_loop()
    assert core.current_state() == "Failed"


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    [{}, {"stays": True}, {"leaves_engines": True}, {"leaves_engines": True, "bare_engines": True}],
    ids=lambda behaviour: "+".join(behaviour) or "none",
)
def test_shutdown_leaves_no_process_whatever_the_program_does(
    launch: Launch, folder: Path, behaviour: dict[str, bool]
) -> None:
    core = started(launch({"EngineConfigs": [*ENGINES, {**ENGINES[0], "EngineName": "other"}]}, **behaviour))
    core.run_loop()
    assert len(engines(folder)) == 2
    core.shutdown()
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


@pytest.fixture
def interrupt_in(folder: Path) -> Iterator[Callable[[str], None]]:
    """Has Ctrl-C pressed as soon as the program is asked to do something."""
    usual = signal.signal(signal.SIGUSR1, _interrupt)

    def press(call: str) -> None:
        wait_until(lambda: (folder / CALLS).exists() and call in asked(folder))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    yield lambda call: threading.Thread(target=press, args=(call,)).start()
    signal.signal(signal.SIGUSR1, usual)


def test_what_interrupts_a_call_stops_the_loop(
    launch: Launch, folder: Path, interrupt_in: Callable[[str], None]
) -> None:
    core = started(launch(step_s=0.8))
    interrupt_in("runLoop")
    with pytest.raises(KeyboardInterrupt):
        core.run_loop(10)
    assert core.current_state() == "Stopped"
    assert asked(folder)[-1] == "stopLoop"
    core.shutdown()  # when the step has ended
    assert asked(folder)[-1] == "shutdown"


def test_a_step_that_never_ends_does_not_keep_the_engines(
    launch: Launch, folder: Path, interrupt_in: Callable[[str], None]
) -> None:
    core = started(launch(hangs_at=1))
    interrupt_in("runLoop")
    with pytest.raises(KeyboardInterrupt):
        core.run_loop()
    core.shutdown()
    assert working_in(folder) == []
    assert all(processes.has_ended(engine) for engine in engines(folder))


def test_a_start_that_is_interrupted_leaves_no_process(
    launch: Launch, folder: Path, interrupt_in: Callable[[str], None]
) -> None:
    core = launch(start_s=60.0)
    interrupt_in("launched")
    with pytest.raises(KeyboardInterrupt):
        core.initialize()
    assert working_in(folder) == []


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
    wait_until(lambda: not servers_in(folder))
    for engine in engines(folder):  # those of the real program see to it themselves
        os.kill(engine, signal.SIGKILL)


def test_launched_in_a_thread_it_outlives_that(launch: Launch) -> None:
    core = launch()
    thread = threading.Thread(target=core.initialize)
    thread.start()
    thread.join()
    assert core.run_loop() == (False, [])


# -- attaching -------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(launch: Launch, folder: Path, program: Path) -> Iterator[Running]:
    """A server that somebody else started."""
    launch()
    address = f"127.0.0.1:{free_port()}"
    command = [program, "-c", "simulation_config.json", "-m", "server", "--server_address", address]
    options = ["--logoutput=all", "--logfilename=.console_output.log"]
    with subprocess.Popen([*command, *options], cwd=folder) as server:
        yield Running(server, address)
        server.kill()
    for engine in engines(folder):
        if not processes.has_ended(engine):
            os.kill(engine, signal.SIGKILL)


class Running(NamedTuple):
    server: subprocess.Popen[bytes]
    address: str

    def attached(self, folder: Path) -> NRPCoreSim:
        return NRPCoreSim(folder, options=NRPCoreSimOptions(address=self.address, start_timeout_s=30))


def test_a_server_that_runs_is_driven_and_goes_on_after_the_shutdown(folder: Path, running: Running) -> None:
    for _ in range(2):
        core = running.attached(folder)
        assert core.initialize() == step(0)
        assert core.run_loop() == (False, [])
        core.shutdown()
        assert asked(folder)[-1] == "shutdown"
    assert running.server.poll() is None


def test_a_server_that_was_attached_to_and_is_gone_is_told(folder: Path, running: Running) -> None:
    core = started(running.attached(folder))
    running.server.kill()
    running.server.wait()
    with pytest.raises(CoreLost, match=f"NRPCoreSim at {running.address} does not answer any more"):
        core.run_loop()
    core.shutdown()


def test_a_server_that_somebody_drives_is_not_taken_from_him(folder: Path, running: Running) -> None:
    core = started(running.attached(folder))
    other = running.attached(folder)
    with pytest.raises(
        CallNotAllowed, match=f"NRPCoreSim at {running.address} runs somebody else's simulation: Can't "
    ):
        other.initialize()
    other.shutdown()
    assert core.run_loop() == (False, [])
    core.shutdown()


def test_a_server_that_runs_is_not_left_to_its_own_timeout_which_may_be_another(folder: Path, running: Running) -> None:
    (folder / "simulation_config.json").write_text(json.dumps({"EngineConfigs": ENGINES, "SimulationTimeout": 1}))
    core = started(running.attached(folder))
    assert core.run_until_timeout() == (False, True, [])
    assert core.time_ns == 1_000_000_000
    assert "runUntilTimeout" not in asked(folder)
    core.shutdown()


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
    wait_until(lambda: [each["simulationTime"] for each in simulation.statuses[-1:]] == pytest.approx([0.03]))
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


def test_what_program_and_engines_write_is_in_the_log_of_the_simulation(
    servers: SimulationServers, program: Path
) -> None:
    simulation = servers.paused(**simulation_fields(program))
    wait_until(lambda: "NRPCoreSim starts\n" in simulation.log)
    with (simulation.folder.experiment / LOG).open("a") as log:
        log.write("an engine without a line's end")
    simulation.command("stopped")
    simulation.await_end()
    assert simulation.log.count("NRPCoreSim starts") == 1
    assert "an engine without a line's end" in simulation.log


@pytest.mark.parametrize(
    "behaviour", [{"hangs_at": 1}, {"hangs_at": 1, "stays": True}], ids=lambda each: "+".join(each)
)
def test_a_simulation_is_stopped_in_the_middle_of_a_step(
    servers: SimulationServers, program: Path, behaviour: dict[str, Any]
) -> None:
    simulation = servers.started(files={"stand_in.json": json.dumps(behaviour)}, **simulation_fields(program))
    folder = simulation.folder.experiment
    wait_until(lambda: "runLoop" in asked(folder))
    simulation.command("stopped")
    os.kill(simulation.pid, signal.SIGTERM)  # as its launcher does
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
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def servers_in(folder: Path) -> list[psutil.Process]:
    """Those of them that are the program."""
    found = []
    for process in working_in(folder):
        with suppress(psutil.Error):
            if "--server_address" in process.cmdline():
                found.append(process)
    return found


def offer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this port taken for a free one, once."""
    ports = itertools.chain([port], iter(programs._free_port, None))
    monkeypatch.setattr(programs, "_free_port", lambda: next(ports))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
