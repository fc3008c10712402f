"""The original program, called as nrp_client's NrpCore is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import ConfigurationError
from nrp_simserver.cores.nrpcoresim import NrpCore
from tests.nrpcoresim import CALLS, behave, calls, install
from tests.waiting import wait_until

ENGINES = [{"EngineName": "robot", "EngineType": "gazebo_grpc", "EngineTimestep": 0.01}]

Make = Callable[..., NrpCore]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "simulation_config.json").write_text(json.dumps({"EngineConfigs": ENGINES, "SimulationTimeout": 0}))
    return folder


@pytest.fixture
def make(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes clients of a program that behaves in some way."""
    install(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    made: list[NrpCore] = []

    def make(args: str = "", **behaviour: Any) -> NrpCore:
        behave(folder, **behaviour)
        made.append(NrpCore("localhost:50051", experiment_folder=str(folder), args=args, server_timeout=30))
        return made[-1]

    yield make
    for nrp in made:
        nrp.shutdown()


def test_a_master_script_of_nrp_client_runs(make: Make) -> None:
    nrp = make("-o SimulationTimeout=1 -o EngineConfigs.0.EngineTimestep=0.25")
    assert nrp.current_state() == "Created"
    assert nrp.initialize()[1] == {"step": 0}
    assert nrp.run_loop(2) == (False, [])
    nrp.set_json_datapack("goal", "robot", {"x": 1})
    done, timed_out, trajectory = nrp.run_until_timeout()  # type: ignore[misc]
    assert (done, timed_out) == (False, True)
    assert [entry["step"] for entry in trajectory[1::2]] == [1, 2, 3, 4]
    assert nrp.reset()[1] == {"step": 0}
    assert nrp.current_state() == "Initialized"
    nrp.shutdown()
    with pytest.raises(ChildProcessError):
        nrp.run_loop()


def test_options_reach_the_program_as_they_are(make: Make, folder: Path) -> None:
    make('-p plugin.so -o SimulationName="two words"').initialize()
    launched = calls(folder)[0][1]
    assert launched["arguments"][-4:] == ["-p", "plugin.so", "-o", 'SimulationName="two words"']
    assert launched["configuration"]["SimulationName"] == "two words"


def test_an_override_of_what_is_not_there_is_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="there is no '1'"):
        make("-o EngineConfigs.1.EngineTimestep=0.1")


def test_stop_ends_a_run_in_the_background(make: Make, folder: Path) -> None:
    nrp, response = make(step_s=0.01), []
    nrp.initialize()
    thread = nrp.run_until_timeout(run_async=True, response=response)
    assert isinstance(thread, threading.Thread)
    wait_until(lambda: "runLoop" in (folder / CALLS).read_text())
    nrp.stop()
    thread.join(10)
    assert response == [(False, False, [])]
    assert nrp.current_state() == "Stopped"


def test_after_a_failure_only_shutdown_is_left(make: Make) -> None:
    nrp = make(fails_at=1)
    nrp.initialize()
    with pytest.raises(RuntimeError, match="engine 'robot' fell over"):
        nrp.run_loop()
    assert nrp.current_state() == "Failed"
    with pytest.raises(ConnectionError, match="Can't process request"):
        nrp.run_loop()


def test_without_attaching_its_address_is_a_free_one_and_with_it_that_of_the_server(make: Make, folder: Path) -> None:
    make().initialize()
    arguments = calls(folder)[0][1]["arguments"]
    address = arguments[arguments.index("--server_address") + 1]
    assert address != "localhost:50051"
    with pytest.raises(ConnectionError, match=f"NRPCoreSim at {address} runs somebody else's simulation"):
        NrpCore(address, folder, attach=True).initialize()


def test_the_package_has_nothing_else() -> None:
    with pytest.raises(ImportError):
        from nrp_simserver.cores.nrpcoresim import Nothing  # type: ignore[attr-defined]  # noqa: F401
