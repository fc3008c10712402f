"""Experiments for the original nrp-core, through the whole product: a stand-in for NRPCoreSim is on the PATH."""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import NRP, RunningStack, end_stack, start_stack
from tests.e2e.experiments import assert_nothing_is_left, experiment, failed, launch, record_of, started
from tests.e2e.websocket_frontend import Frontend
from tests.nrpcoresim import BEHAVIOUR, install
from tests.waiting import wait_until

LOG = ".console_output.log"

GAZEBO = {"EngineConfigs": [{"EngineName": "robot", "EngineType": "gazebo_grpc"}]}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in."""
    return install(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def path(program: Path) -> str:
    """A PATH with the stand-in."""
    return f"{program.parent}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def stack(path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", path)
        running = start_stack(tmp_path_factory.mktemp("data"), "embedded")
    yield running
    end_stack(running)


def stored(stack: RunningStack, script: str = "while True:\n    nrp.run_loop()\n", **behaviour: Any) -> str:
    """The id of an experiment that needs NRPCoreSim, which behaves in some way."""
    return experiment(stack, script, configuration=GAZEBO, files={BEHAVIOUR: json.dumps(behaviour)})


def logs_of(stack: RunningStack, number: int) -> dict[str, str]:
    archive = zipfile.ZipFile(io.BytesIO(stack.get(f"/simulation/{number}/logs").content))
    return {name: archive.read(name).decode() for name in archive.namelist()}


# -- with broker and gateway -----------------------------------------------------------------------------------------


def test_an_experiment_that_needs_it_runs_and_what_it_writes_is_stored(stack: RunningStack) -> None:
    number = started(stack, stored(stack, "nrp.run_loop(50)"))
    wait_until(lambda: record_of(stack, number)["state"] == "completed")
    wait_until(lambda: record_of(stack, number)["simulationTime"] == pytest.approx(0.5))
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    logs = logs_of(stack, number)
    assert logs[LOG] == "NRPCoreSim starts\n"
    assert logs[LOG] in logs[f"simulation_{number}.log"]
    assert_nothing_is_left(stack, number)


def test_one_that_dies_at_its_start_is_told_with_its_last_words(stack: RunningStack) -> None:
    record = launch(stack, stored(stack, exits_at_start=127))
    assert record["state"] == "failed"
    assert "ended with status 127" in record["error"]
    assert "libgazebo.so: cannot open shared object file" in record["error"]
    assert_nothing_is_left(stack, record["simulationID"])


def test_one_that_fails_in_a_step_is_told_to_frontends_with_why_and_its_last_words(stack: RunningStack) -> None:
    assert stack.websocket is not None
    with Frontend(stack.websocket) as frontend:
        number = started(stack, stored(stack, fails_at=3, failure="the robot fell over"))
        topic = f"nrp_simulation/{number}/runtime_error"
        frontend.wait_for(lambda: bool(frontend.of(topic)))
        (report,) = frontend.of(topic)
    assert report["msg"] == (f"NRPCoreSim failed in runLoop: the robot fell over; the end of {LOG}:\nNRPCoreSim starts")
    assert (report["error_type"], report["fileName"], report["line_number"]) == ("Runtime", "main_script.py", 2)
    assert failed(stack, number)["error"] == report["msg"]
    log = logs_of(stack, number)[f"simulation_{number}.log"]
    assert "nrp_simserver/" not in log  # the lines of the backend tell the author of the experiment nothing
    assert_nothing_is_left(stack, number)


@pytest.mark.parametrize("behaviour", [{"hangs_at": 2}, {"stays": True}], ids=lambda behaviour: next(iter(behaviour)))
def test_one_that_hangs_is_stopped_all_the_same(stack: RunningStack, behaviour: dict[str, Any]) -> None:
    number = started(stack, stored(stack, **behaviour))
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    assert LOG in logs_of(stack, number)
    assert_nothing_is_left(stack, number)


# -- without ---------------------------------------------------------------------------------------------------------


def run_locally(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NRP, "run", "--local", str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "simulation_config.json").write_text(json.dumps(GAZEBO))
    (tmp_path / "main_script.py").write_text("nrp.run_loop(50)\n")
    return tmp_path


def test_a_local_run_takes_it_when_it_has_to(folder: Path, path: str) -> None:
    ended = run_locally(folder, PATH=path)
    assert ended.returncode == 0, ended.stderr
    assert "completed: 0.50 s simulated" in ended.stdout
    assert (folder / LOG).read_text() == "NRPCoreSim starts\n"
    assert "NRPCoreSim starts\n" in ended.stdout


def test_a_local_run_takes_it_when_it_is_told_to(folder: Path, program: Path) -> None:
    engine = {"EngineName": "a", "EngineType": "python_json", "PythonFileName": "main_script.py"}
    (folder / "simulation_config.json").write_text(json.dumps({"EngineConfigs": [engine]}))
    ended = run_locally(folder, NRP_CORE="nrpcoresim", NRP_NRPCORESIM=str(program))
    assert ended.returncode == 0, ended.stderr
    assert (folder / LOG).exists()


@pytest.mark.parametrize("core", ["auto", "embedded", "nrpcoresim"])
def test_without_it_the_engine_that_nothing_can_run_is_named(folder: Path, core: str) -> None:
    ended = run_locally(folder, PATH="/nowhere", NRP_CORE=core)
    assert ended.returncode == 1
    assert "'robot'" in ended.stderr
    assert "gazebo_grpc" in ended.stderr
    assert "Traceback" not in ended.stderr
