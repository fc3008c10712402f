"""An engine type is added by defining its class: neither the loop nor the core know it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.configuration import EngineConfiguration
from nrp_simserver.cores.embedded import Engine
from nrp_simserver.cores.embedded.datapacks import DataPack, JsonDataPack
from tests.unit.cores.experiment import Experiment, forward, seen


@pytest.fixture(autouse=True)
def remote_engine_type() -> Iterator[None]:
    """The type `unity_grpc`, whose engines step while others do something else."""

    class RemoteEngine(Engine[EngineConfiguration]):
        engine_type = "unity_grpc"

        def initialize(self) -> None:
            self.steps = 0

        def start_step(self, timestep_ns: int) -> None:
            seen.append("step started")

        def complete_step(self) -> None:
            if "fails" in self.configuration.extra:
                raise TimeoutError("no answer")
            seen.append("step completed")
            self.steps += 1

        def get_datapack(self, name: str) -> DataPack:
            return JsonDataPack.holding(name, self.name, {"steps": self.steps})

        def set_datapacks(self, datapacks: dict[str, Any]) -> None:
            seen.append(dict(datapacks))

        def reset(self) -> None:
            self.steps = 0

        def shutdown(self) -> None:
            seen.append("shut down")

    yield
    del Engine.types["unity_grpc"]


def remote(experiment: Experiment, **extra: Any) -> Experiment:
    experiment.configuration["EngineConfigs"] = [
        {"EngineName": "remote", "EngineType": "unity_grpc", "EngineExtraConfigs": extra}
    ]
    return experiment


def test_a_step_completes_before_its_datapacks_are_fetched(experiment: Experiment) -> None:
    core = remote(experiment).function("forward", forward("remote", "remote")).started()
    core.run_loop(2)
    core.shutdown()
    assert seen == [
        {"inbox": {"steps": 0}},
        "step started",
        "step completed",
        {"inbox": {"steps": 1}},
        "step started",
        "shut down",
    ]


def test_an_engine_that_fails_to_complete_its_step_is_named(experiment: Experiment) -> None:
    core = remote(experiment, fails=True).started()
    core.run_loop()
    with pytest.raises(EngineFailed, match="engine 'remote': TimeoutError: no answer"):
        core.run_loop()
