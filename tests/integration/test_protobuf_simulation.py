"""An experiment whose engines exchange protobuf messages, in a real simulation server."""

from __future__ import annotations

from typing import Any

from tests.simulation_servers import SimulationServers
from tests.waiting import wait_until

PROTO = """
syntax = "proto3";
package Rover;

message Pose {
  double x = 1;
}
"""

ROVER = """
from nrp_core.engines.python_grpc import GrpcEngineScript
from nrp_protobuf.rover_pb2 import Pose
from nrp_protobuf.wrappers_pb2 import DoubleValue


class Script(GrpcEngineScript):
    def initialize(self):
        self._registerDataPack("pose", Pose)
        self._registerDataPack("speed", DoubleValue)

    def runLoop(self, timestep_ns):
        pose = self._getDataPack("pose")
        pose.x += self._getDataPack("speed").value * timestep_ns * 1e-9
"""

TELL = """
from nrp_core import *
from nrp_core.data.nrp_protobuf import *


@EngineDataPack(keyword="pose", id=DataPackIdentifier("pose", "rover"))
@TransceiverFunction("rover")
def tell(pose):
    text = DumpStringDataPack("text", "transfer")
    text.data.string_stream = f"x = {pose.data.x:.1f}"
    return [text]
"""

SCRIPT = """
from nrp_protobuf.wrappers_pb2 import DoubleValue

nrp.set_proto_datapack("speed", "rover", DoubleValue(value=10))
nrp.run_loop(3)
"""

CONFIGURATION: dict[str, Any] = {
    "EngineConfigs": [
        {
            "EngineType": "python_grpc",
            "EngineName": "rover",
            "PythonFileName": "rover.py",
            "EngineTimestep": 0.01,
            "ProtobufPackages": ["Rover", "Wrappers"],
        },
        {
            "EngineName": "transfer",
            "EngineType": "datatransfer_grpc_engine",
            "dumps": [{"name": "text", "network": True, "file": True}],
        },
    ],
    "DataPackProcessingFunctions": [{"Name": "tell", "FileName": "tell.py"}],
}

FILES = {"rover.py": ROVER, "rover.proto": PROTO, "tell.py": TELL}


def test_messages_flow_between_script_engines_functions_and_the_bus(servers: SimulationServers) -> None:
    simulation = servers.paused(SCRIPT, configuration=CONFIGURATION, files=FILES)
    simulation.command("started")
    simulation.await_transition("completed")
    root = f"nrp_simulation/{simulation.id}"
    wire = simulation.wire
    wait_until(lambda: len(wire.on(f"{root}/data/text")) == 3)
    payloads = [seen.payload for seen in wire.on(f"{root}/data/text")]
    for payload, text in zip(payloads, [b"x = 0.0", b"x = 0.1", b"x = 0.2"], strict=True):
        assert b"type.googleapis.com/Dump.String" in payload  # wrapped in an EngineGrpc.DataPackMessage
        assert payload.endswith(text)
    assert wire.on(f"{root}/data")[-1].json == [{"topic": f"{root}/data/text", "type": "Dump.String"}]
    (record,) = (simulation.folder.experiment / "data").glob("*/text-0.data")
    assert record.read_text() == "0,x = 0.0\n0.01,x = 0.1\n0.02,x = 0.2\n"


def test_a_wrong_proto_file_is_reported_with_its_place(servers: SimulationServers) -> None:
    wrong = PROTO.replace("double x", "doubel x")
    simulation = servers.launch(SCRIPT, configuration=CONFIGURATION, files={**FILES, "rover.proto": wrong})
    simulation.await_failure()
    wait_until(lambda: bool(simulation.errors))
    (error,) = simulation.errors
    assert (error["fileName"], error["line_number"], error["line_text"]) == ("rover.proto", 6, "doubel x = 1;")
    assert '"doubel" is not defined' in error["msg"]
