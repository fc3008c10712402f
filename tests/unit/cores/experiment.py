"""Experiments made up by tests. Their engines and functions run in this process: what they tell `seen`, tests read."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from nrp_common.errors import EngineFailed
from nrp_simserver.cores import BrokerConnector, DataPublisher, Rest
from nrp_simserver.cores.embedded import EmbeddedCore

seen: list[Any] = []
"""What the engines and functions of the present test told, in order."""

ENGINE = """
class Script(EngineScript):
    def initialize(self):
        self.steps = 0
        self._registerDataPack("out")
        self._registerDataPack("inbox")
        self._setDataPack("out", {"steps": 0})

    def runLoop(self, timestep_ns):
        self.steps += 1
        self._setDataPack("out", {"steps": self.steps})
        seen.append((self._name, self._time_ns, self._getDataPack("inbox")))
"""
"""Counts its steps in the datapack `out`, and tells time and `inbox` in each."""

FORWARD = """
@EngineDataPack(keyword="given", id=DataPackIdentifier("out", "{source}"))
@TransceiverFunction("{linked}")
def forward(given):
    out = JsonDataPack("inbox", "{target}")
    out.data["steps"] = given.data["steps"]
    return [out]
"""

SIMULATOR_IMPORTS = """
from nrp_core.engines.py_sim import PySimEngineScript
from tests.unit.cores.experiment import seen
"""


def forward(source: str, target: str, linked: str = "") -> str:
    """A function that hands the `out` of an engine to the `inbox` of another."""
    return FORWARD.format(source=source, target=target, linked=linked or target)


@dataclass
class Experiment:
    """A folder that becomes an experiment: engines and functions in the order in which they are added."""

    folder: Path
    configuration: dict[str, Any] = field(default_factory=dict)
    _cores: list[EmbeddedCore] = field(default_factory=list)

    def engine(self, name: str, source: str = ENGINE, timestep: float = 0.01, **fields: Any) -> Experiment:
        """Add a python_json engine whose file begins with the usual imports."""
        self.file(
            f"{name}.py",
            "from nrp_core.engines.python_json import EngineScript\nfrom tests.unit.cores.experiment import seen\n",
            source,
        )
        entry = {"EngineName": name, "EngineType": "python_json", "PythonFileName": f"{name}.py"}
        self.configuration.setdefault("EngineConfigs", []).append({**entry, "EngineTimestep": timestep, **fields})
        return self

    def grpc_engine(self, name: str, source: str, timestep: float = 0.01, **fields: Any) -> Experiment:
        """Add a python_grpc engine whose file begins with the usual imports."""
        self.file(
            f"{name}.py",
            "from nrp_core.engines.python_grpc import GrpcEngineScript\n"
            "from nrp_protobuf import dump_pb2, wrappers_pb2\n"
            "from tests.unit.cores.experiment import seen\n",
            source,
        )
        entry = {"EngineName": name, "EngineType": "python_grpc", "PythonFileName": f"{name}.py"}
        self.configuration.setdefault("EngineConfigs", []).append({**entry, "EngineTimestep": timestep, **fields})
        return self

    def simulator(self, simulator: str, world: str, source: str, timestep: float = 0.01, **fields: Any) -> Experiment:
        """Add a py_sim engine `body` whose file begins with the usual imports."""
        self.file("body.py", SIMULATOR_IMPORTS, source)
        entry = {"EngineName": "body", "EngineType": "py_sim", "PythonFileName": "body.py", "EngineTimestep": timestep}
        engines = self.configuration.setdefault("EngineConfigs", [])
        engines.append({**entry, "Simulator": simulator, "WorldFileName": world, **fields})
        return self

    def function(self, name: str, source: str, **fields: Any) -> Experiment:
        """Add a preprocessing or transceiver function."""
        entry = self._function_file(name, source)
        self.configuration.setdefault("DataPackProcessingFunctions", []).append({**entry, **fields})
        return self

    def status(self, source: str) -> Experiment:
        """Add the status function."""
        self.configuration["StatusFunction"] = self._function_file("status", source)
        return self

    def graph(self, source: str, name: str = "graph") -> Experiment:
        """Add a file of the computational graph, which takes the place of transceiver functions."""
        self.file(
            f"{name}.py",
            "from nrp_core import *\nfrom nrp_core.event_loop import *\nfrom nrp_core.data.nrp_json import *\n"
            "from tests.unit.cores.experiment import seen\n",
            source,
        )
        self.configuration["DataPackProcessor"] = "cg"
        self.configuration.setdefault("ComputationalGraph", []).append(f"{name}.py")
        return self

    def file(self, name: str, *parts: str) -> Experiment:
        """Add a file."""
        (self.folder / name).write_text("".join(dedent(part) for part in parts), encoding="utf-8")
        return self

    def core(
        self,
        publisher: DataPublisher | None = None,
        connect: BrokerConnector | None = None,
        rest: Rest = time.sleep,
        **fields: Any,
    ) -> EmbeddedCore:
        """The core that runs it, with further fields of the configuration."""
        self.file("simulation_config.json", json.dumps({**self.configuration, **fields}))
        core = EmbeddedCore(self.folder, publisher=publisher, connect=connect, rest=rest)
        self._cores.append(core)
        return core

    def started(self, **fields: Any) -> EmbeddedCore:
        """The core that runs it, initialised."""
        core = self.core(**fields)
        core.initialize()
        return core

    def close(self) -> None:
        """Shut down all cores that a test left running."""
        while self._cores:
            with suppress(EngineFailed):
                self._cores.pop().shutdown()

    def _function_file(self, name: str, source: str) -> dict[str, str]:
        self.file(
            f"{name}.py",
            "from nrp_core import *\nfrom nrp_core.data.nrp_json import *\n"
            "from tests.unit.cores.experiment import seen\n",
            source,
        )
        return {"Name": name, "FileName": f"{name}.py"}
