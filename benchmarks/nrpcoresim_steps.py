"""What the nrpcoresim core adds to the calls that it makes: a step through it over a bare gRPC round trip.

Both ask the stand-in of the tests, whose steps take no time, alternately and in one run.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from benchmarks.figures import Figure
from nrp_shims.nrp_protobuf import nrp_core_pb2 as messages
from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim
from nrp_simserver.cores.nrpcoresim.options import NRPCoreSimOptions
from tests.nrpcoresim import behave, calls, install

STEPS = 100
ROUNDS = 75


def measure_nrpcoresim() -> list[Figure]:
    """A step by itself, and one of many in a call, as multiples of a round trip; medians of rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        program = install(Path(scratch))
        folder = Path(scratch) / "experiment"
        folder.mkdir()
        engine = {"EngineName": "robot", "EngineType": "gazebo_grpc"}
        (folder / "simulation_config.json").write_text(json.dumps({"EngineConfigs": [engine]}))
        behave(folder, is_loud=False)
        core = NRPCoreSim(folder, options=NRPCoreSimOptions(program=str(program)))
        core.initialize()
        try:
            bare, single, many = _seconds_a_step(core, _address(folder))
        finally:
            core.shutdown()
    return [
        Figure("a step through the nrpcoresim core over a bare gRPC round trip", _ratio(single, bare), target="1.2"),
        Figure("the same, a step of run_loop(n)", _ratio(many, bare)),
    ]


def _address(folder: Path) -> str:
    arguments: list[str] = calls(folder)[0][1]["arguments"]
    return arguments[arguments.index("--server_address") + 1]


def _seconds_a_step(core: NRPCoreSim, address: str) -> tuple[list[float], list[float], list[float]]:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/NrpCore.NrpCore/runLoop",
            request_serializer=messages.RunLoopMessage.SerializeToString,
            response_deserializer=messages.RunLoopResponse.FromString,
        )
        request = messages.RunLoopMessage(numIterations=1)
        bare, single, many = [], [], []
        for _ in range(ROUNDS):
            bare.append(_seconds(lambda: [call(request) for _ in range(STEPS)]))
            single.append(_seconds(lambda: [core.run_loop() for _ in range(STEPS)]))
            many.append(_seconds(lambda: core.run_loop(STEPS)))
    return bare, single, many


def _seconds(steps: Callable[[], object]) -> float:
    began = time.perf_counter()
    steps()
    return (time.perf_counter() - began) / STEPS


def _ratio(times_s: list[float], floor_s: list[float]) -> str:
    """Of neighbours in time, as the machine's load changes."""
    ratios = [time_s / floor for time_s, floor in zip(times_s, floor_s, strict=True)]
    time_ms, floor_ms = (statistics.median(each) * 1e3 for each in (times_s, floor_s))
    return f"{statistics.median(ratios):.2f} ({time_ms:.2f} ms / {floor_ms:.2f} ms)"
