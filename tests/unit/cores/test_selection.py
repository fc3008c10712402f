"""Which core runs an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import EngineUnavailable
from nrp_simserver.cores.configuration import ENGINE_TYPES, SimulationConfiguration
from nrp_simserver.cores.embedded import EmbeddedCore, Engine
from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from nrp_simserver.cores.selection import create_core

ENGINE: dict[str, Any] = {
    "EngineName": "robot",
    "PythonFileName": "a.py",
    "Simulator": "Mujoco",
    "NestInitFileName": "a.py",
}


def configuration(engine_type: str) -> SimulationConfiguration:
    return SimulationConfiguration.model_validate({"EngineConfigs": [{**ENGINE, "EngineType": engine_type}]})


@pytest.mark.parametrize("engine_type", ["python_json", "datatransfer_grpc_engine"])
def test_the_embedded_core_runs_what_it_can(engine_type: str, tmp_path: Path) -> None:
    core = create_core(configuration(engine_type), tmp_path)
    assert isinstance(core, EmbeddedCore)
    assert core.current_state() == "Created"


@pytest.mark.parametrize("engine_type", sorted(ENGINE_TYPES.keys() - Engine.types.keys()))
@pytest.mark.parametrize("kind", ["auto", "embedded"])
def test_an_engine_that_nothing_can_run_is_named_with_its_type(kind: Any, engine_type: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=f"engine 'robot' is of type {engine_type}: it needs "):
        create_core(configuration(engine_type), tmp_path, kind)


def test_an_engine_of_an_unknown_type_that_nothing_can_run_is_named_with_the_types_that_are_known(
    tmp_path: Path,
) -> None:
    with pytest.raises(EngineUnavailable) as refusal:
        create_core(configuration("my_engine_grpc"), tmp_path, config_file="other.json")
    assert str(refusal.value) == (
        "other.json: EngineConfigs.0.EngineType: engine 'robot' is of type my_engine_grpc: it has to be one of "
        f"{', '.join(sorted(ENGINE_TYPES))}, unless the original nrp-core has another one; "
        "there is no program NRPCoreSim on the PATH"
    )
    assert refusal.value.file == "other.json"


def test_everything_that_cannot_be_run_is_told_at_once(tmp_path: Path) -> None:
    robots = [{"EngineName": name, "EngineType": "gazebo_grpc"} for name in ("left", "right")]
    both = SimulationConfiguration.model_validate({"EngineConfigs": robots})
    with pytest.raises(EngineUnavailable, match=r"engine 'left' .*; EngineConfigs.1.EngineType: engine 'right' "):
        create_core(both, tmp_path)


def test_a_graph_with_a_node_in_ros_the_original_program_runs(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    graph = {"SimulationLoop": "EventLoop", "ComputationalGraph": ["graph.py"], "ROSNode": {"NodeName": "nrp"}}
    asked = SimulationConfiguration.model_validate(graph)
    with pytest.raises(EngineUnavailable, match="ROSNode: it needs the original nrp-core, built with ROS; there is no"):
        create_core(asked, tmp_path)
    request.getfixturevalue("original")
    assert isinstance(create_core(asked, tmp_path), NRPCoreSim)


@pytest.mark.parametrize("engine_type", ["gazebo_grpc", "unity_grpc", "my_engine_grpc"])
def test_what_the_embedded_core_cannot_run_the_original_program_runs(engine_type: str, original: Path) -> None:
    core = create_core(configuration(engine_type), original.parent)
    assert isinstance(core, NRPCoreSim)
    assert core.current_state() == "Created"


def test_a_server_that_runs_already_does_as_well(tmp_path: Path) -> None:
    options = NRPCoreSimOptions(address="localhost:5345")
    assert isinstance(create_core(configuration("gazebo_grpc"), tmp_path, nrpcoresim=options), NRPCoreSim)


def test_what_the_embedded_core_can_run_it_runs_although_the_program_is_there(original: Path) -> None:
    assert isinstance(create_core(configuration("python_json"), original.parent), EmbeddedCore)


def test_the_program_is_not_taken_when_the_embedded_core_is_asked_for(original: Path) -> None:
    with pytest.raises(EngineUnavailable, match="engine 'robot' is of type gazebo_grpc"):
        create_core(configuration("gazebo_grpc"), original.parent, "embedded")


def test_asked_for_the_program_runs_what_the_embedded_core_could_run_too(tmp_path: Path) -> None:
    assert isinstance(create_core(configuration("python_json"), tmp_path, "nrpcoresim"), NRPCoreSim)


@pytest.fixture(autouse=True)
def no_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program NRPCoreSim, although it may be installed."""
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program NRPCoreSim on the PATH."""
    program = tmp_path / "NRPCoreSim"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program
