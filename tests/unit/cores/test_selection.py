"""Which core runs an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import EngineUnavailable
from nrp_simserver.cores.configuration import ENGINE_TYPES, SimulationConfiguration
from nrp_simserver.cores.embedded import Engine, NrpCore
from nrp_simserver.cores.selection import create_core

FIELDS = {"PythonFileName": "a.py", "Simulator": "Mujoco", "NestInitFileName": "a.py"}


def configuration(engine_type: str) -> SimulationConfiguration:
    engine: dict[str, Any] = {"EngineName": "robot", "EngineType": engine_type, **FIELDS}
    return SimulationConfiguration.model_validate({"EngineConfigs": [engine]})


@pytest.mark.parametrize("engine_type", ["python_json", "datatransfer_grpc_engine"])
def test_the_embedded_core_runs_what_it_can(engine_type: str, tmp_path: Path) -> None:
    core = create_core(configuration(engine_type), tmp_path)
    assert isinstance(core, NrpCore)
    assert core.current_state() == "Created"


@pytest.mark.parametrize("engine_type", sorted(ENGINE_TYPES.keys() - Engine.types.keys()))
@pytest.mark.parametrize("kind", ["auto", "embedded"])
def test_an_engine_that_nothing_can_run_is_named_with_its_type(kind: Any, engine_type: str, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=f"engine 'robot' is of type {engine_type}: it needs "):
        create_core(configuration(engine_type), tmp_path, kind)


def test_the_original_core_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="choose the embedded core"):
        create_core(configuration("python_json"), tmp_path, "nrpcoresim")
