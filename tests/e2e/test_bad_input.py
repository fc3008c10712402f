"""What an experiment can have wrong, and what its owner then gets: a clear word, and nothing left behind."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e.conftest import RunningStack
from tests.e2e.experiments import (
    CONFIGURATION,
    assert_nothing_is_left,
    experiment,
    failed,
    launch,
    log_of,
    processes_in,
    record_of,
    started,
    the_report,
)
from tests.e2e.websocket_frontend import Frontend
from tests.waiting import wait_until

ENGINE = CONFIGURATION["EngineConfigs"][0]


# -- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "files", "words"),
    [
        ("{ not JSON", {}, ["simulation_config.json"]),
        ({"EngineConfigs": [{"EngineType": "python_json"}]}, {}, ["EngineName"]),
        ({"EngineConfigs": [ENGINE, ENGINE]}, {}, ["counter"]),
        ({"EngineConfigs": [{**ENGINE, "EngineType": "warp_drive"}]}, {}, ["warp_drive", "python_json"]),
        ({"EngineConfigs": [{**ENGINE, "PythonFileName": "missing.py"}]}, {}, ["missing.py"]),
        ({"EngineConfigs": [{**ENGINE, "PythonFileName": "../engine.py"}]}, {}, ["../engine.py"]),
        ({"EngineConfigs": [{**ENGINE, "EngineTimestep": "soon"}]}, {}, ["EngineTimestep"]),
        (
            {"DataPackProcessingFunctions": [{"Name": "f", "FileName": "gone.py"}]},
            {},
            ["gone.py"],
        ),
        ({"ExternalProcesses": [{"ProcCmd": "/no/such/program", "ProcStartParams": []}]}, {}, ["/no/such/program"]),
        (None, {"engine.py": "raise OSError('no such device')\n"}, ["engine.py", "no such device"]),
        (None, {"engine.py": "class Script:\n    def :\n"}, ["engine.py", "2"]),
    ],
    ids=[
        "not JSON",
        "a field missing",
        "an engine named twice",
        "an unknown engine type",
        "an engine's file missing",
        "an engine's file outside",
        "a wrong type",
        "a function's file missing",
        "an external process missing",
        "an engine that raises",
        "an engine with a syntax error",
    ],
)
def test_a_launch_that_cannot_be_says_why(
    stack: RunningStack,
    frontend: Frontend,
    configuration: dict[str, Any] | str | None,
    files: dict[str, str],
    words: list[str],
) -> None:
    record = launch(stack, experiment(stack, configuration=configuration, files=files))
    number = record["simulationID"]
    assert record["state"] == "failed"
    assert all(word in record["error"] for word in words), record["error"]
    report = the_report(frontend, number)
    assert report["msg"] == record["error"]
    assert report["error_type"] in ("Loading", "Compile")
    frontend.wait_for_state(number, "failed")
    assert_nothing_is_left(stack, number)


def test_an_experiment_that_does_not_exist_is_named(stack: RunningStack, frontend: Frontend) -> None:
    record = launch(stack, "nobody_made_this")
    assert record["state"] == "failed"
    assert "nobody_made_this" in record["error"]
    assert the_report(frontend, record["simulationID"])["error_type"] == "Loading"
    assert_nothing_is_left(stack, record["simulationID"])


@pytest.mark.parametrize("asked", [{"mainScript": "missing.py"}, {"experimentConfiguration": "missing.json"}])
def test_a_file_asked_for_that_does_not_exist_is_named(stack: RunningStack, asked: dict[str, str]) -> None:
    record = launch(stack, experiment(stack), **asked)
    assert record["state"] == "failed"
    assert next(iter(asked.values())) in record["error"]


# -- the main script -------------------------------------------------------------------------------------------------


def test_a_syntax_error_in_the_script_fails_the_launch_with_its_place(stack: RunningStack, frontend: Frontend) -> None:
    record = launch(stack, experiment(stack, "x = 1\nif x\n    pass\n"))
    assert record["state"] == "failed"
    report = the_report(frontend, record["simulationID"])
    assert report["error_type"] == "Compile"
    assert (report["fileName"], report["line_number"], report["line_text"]) == ("main_script.py", 2, "if x")


def test_a_script_that_raises_at_once_fails_with_its_place(stack: RunningStack, frontend: Frontend) -> None:
    number = started(stack, experiment(stack, "x = 1\nprint(y)\n"))
    record = failed(stack, number)
    report = the_report(frontend, number)
    assert report["msg"] == "NameError in main script (Line 2): name 'y' is not defined"
    assert (report["fileName"], report["line_number"], report["line_text"]) == ("main_script.py", 2, "print(y)")
    assert record["error"] == report["msg"]
    assert "NameError" in log_of(stack, record)
    assert_nothing_is_left(stack, number)


@pytest.mark.parametrize(
    "script",
    [
        "while True: pass\n",
        "import time\ntime.sleep(3600)\n",
        "while True:\n    try: nrp.run_loop()\n    except: pass\n",
    ],
    ids=["computing", "sleeping", "catching everything"],
)
def test_a_script_that_never_comes_back_can_be_stopped(stack: RunningStack, script: str) -> None:
    number = started(stack, experiment(stack, script))
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    assert record_of(stack, number)["logs"]
    assert_nothing_is_left(stack, number)


@pytest.mark.parametrize(("code", "state"), [("0", "completed"), ("3", "failed")])
def test_a_script_that_calls_exit_ends_as_it_says(stack: RunningStack, code: str, state: str) -> None:
    number = started(stack, experiment(stack, f"import sys\nnrp.run_loop()\nsys.exit({code})\n"))
    wait_until(lambda: record_of(stack, number)["state"] == state)
    assert stack.put_state(number, "stopped").status_code == (200 if state == "completed" else 400)


def test_a_script_that_ends_its_process_fails_with_the_exit_code(stack: RunningStack) -> None:
    number = launch(stack, experiment(stack, "import os\nprint('goodbye', flush=True)\nos._exit(7)\n"))["simulationID"]
    assert stack.put_state(number, "started").json()["state"] in ("started", "failed")  # it may die before it answers
    record = failed(stack, number)
    assert "exit code 7" in record["error"]
    assert "goodbye" in record["error"]
    assert_nothing_is_left(stack, number)


def test_a_script_that_crashes_its_process_fails_with_the_signal(stack: RunningStack) -> None:
    number = launch(stack, experiment(stack, "import ctypes\nctypes.string_at(0)\n"))["simulationID"]
    assert stack.put_state(number, "started").json()["state"] in ("started", "failed")  # it may die before it answers
    assert "SIGSEGV" in failed(stack, number)["error"]
    assert_nothing_is_left(stack, number)


def test_what_a_script_forks_and_starts_ends_with_it(stack: RunningStack) -> None:
    script = """
import os, subprocess, time
if os.fork() == 0:
    os.setsid()
    time.sleep(3600)
subprocess.Popen(["sleep", "3600"], start_new_session=True)
subprocess.Popen("(sleep 3600 &) &", shell=True, cwd="/", stdout=subprocess.DEVNULL)
print("all started", flush=True)
while True:
    nrp.run_loop()
    time.sleep(0.001)
"""
    number = started(stack, experiment(stack, script))
    folder = stack.data / "simulations" / str(number)
    wait_until(lambda: len(set(processes_in(folder))) >= 3)
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    assert_nothing_is_left(stack, number)


def test_a_script_that_forks_steps_in_its_parent_only(stack: RunningStack) -> None:
    script = """
import os
child = os.fork()
if child == 0:
    nrp.run_loop()
os.waitpid(child, 0)
for _ in range(5):
    nrp.run_loop()
"""
    number = started(stack, experiment(stack, script))
    wait_until(lambda: record_of(stack, number)["state"] == "completed")
    stack.put_state(number, "stopped")
    record = record_of(stack, number)
    assert record["simulationTime"] == pytest.approx(0.05)
    assert "A process forked from a simulation cannot step it" in log_of(stack, record)


def test_a_flood_of_output_is_kept_and_hinders_nobody(stack: RunningStack) -> None:
    script = "import sys\nfor _ in range(20000): print('x' * 1000)\nsys.stdout.flush()\nwhile True: nrp.run_loop()\n"
    number = started(stack, experiment(stack, script))
    wait_until(lambda: (record_of(stack, number)["simulationTime"] or 0) > 0, 30)
    assert stack.put_state(number, "paused").json() == {"state": "paused"}
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    assert len(log_of(stack, record_of(stack, number))) > 20_000_000


# -- the bus ---------------------------------------------------------------------------------------------------------


def test_nonsense_on_the_bus_is_ignored(stack: RunningStack, frontend: Frontend) -> None:
    number = started(stack, experiment(stack))
    for payload in (b"not JSON", b"{}", b"[1, 2]", b'{"event": "stopped"}', b"\xff\x00", b""):
        for leaf in ("command", "lifecycle", "status", "archives"):
            frontend.publish(f"nrp_simulation/{number}/{leaf}", payload)
        frontend.publish(f"nrp_launcher/{record_of(stack, number)['launcher']}/launch", payload)
    frontend.publish("nrp_simulation/nonsense/lifecycle", b'{"a": 1}')
    assert stack.put_state(number, "paused").json() == {"state": "paused"}
    assert record_of(stack, number)["state"] == "paused"
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}


def test_a_flood_on_the_bus_hinders_nobody(stack: RunningStack, frontend: Frontend) -> None:
    flooded, other = started(stack, experiment(stack)), started(stack, experiment(stack))
    payload = json.dumps({"state": "started", "simulationTime": 1.0, "realTime": 1.0, "simulationTimeLeft": 0.0})
    until = time.monotonic() + 2
    while time.monotonic() < until:
        for _ in range(100):
            frontend.publish(f"nrp_simulation/{flooded}/status", payload.encode())
            frontend.publish(f"nrp_simulation/{flooded}/command", b"flood")
    for number in (other, flooded):
        assert stack.put_state(number, "paused").json() == {"state": "paused"}
        assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
