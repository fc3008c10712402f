"""What NRPCoreSim is told and tells is on the wire what it has always been."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as PackedMessage
from google.protobuf.message import Message

from nrp_shims.nrp_protobuf import engine_grpc_pb2, nrp_core_pb2
from nrp_simserver.cores.nrpcoresim.messages import METHODS, HandedIn, trajectory_of

pb: Any = nrp_core_pb2
carrier: Any = engine_grpc_pb2

ANY = PackedMessage(type_url="t", value=b"v")
PACKED = b"\n\x01t\x12\x01v"


def field(number: int, content: bytes) -> bytes:
    """A field that holds text or a message, as protobuf writes it."""
    return bytes([number << 3 | 2, len(content)]) + content


STATE = pb.SimStateMessage(currentState="Failed", errorMsg="why")
STATE_BYTES = field(1, b"Failed") + field(2, b"why")

TRAJECTORY = pb.Trajectory(
    jsonTrajectoryMessages=[pb.TrajectoryMessage(dataIndex=1, data=ANY)],
    protoTrajectoryMessages=[pb.TrajectoryMessage(data=ANY)],
)
TRAJECTORY_BYTES = field(1, b"\x08\x01" + field(2, PACKED)) + field(2, field(2, PACKED))

IDENTIFIER = carrier.DataPackIdentifier(dataPackName="n", dataPackType="t", engineName="e")
DATAPACK = carrier.DataPackMessage(dataPackId=IDENTIFIER, data=ANY)
DATAPACK_BYTES = field(1, field(1, b"n") + field(2, b"t") + field(3, b"e")) + field(2, PACKED)

DATAPACKS = pb.DataPacks(jsonDataPacks=[DATAPACK], protoDataPacks=[DATAPACK])
DATAPACKS_BYTES = field(2, DATAPACK_BYTES) + field(3, DATAPACK_BYTES)


@pytest.mark.parametrize(
    ("message", "on_the_wire"),
    [
        (pb.EmptyMessage(), b""),
        (pb.JsonMessage(data="{}"), field(1, b"{}")),
        (pb.Response(simState=STATE), field(1, STATE_BYTES)),
        (
            pb.InitializeResponse(simState=STATE, trajectory=TRAJECTORY),
            field(1, STATE_BYTES) + field(2, TRAJECTORY_BYTES),
        ),
        (pb.ResetResponse(simState=STATE, trajectory=TRAJECTORY), field(1, STATE_BYTES) + field(2, TRAJECTORY_BYTES)),
        (pb.ResetMessage(dataPacks=DATAPACKS), field(1, DATAPACKS_BYTES)),
        (pb.RunLoopMessage(numIterations=3, dataPacks=DATAPACKS), b"\x08\x03" + field(2, DATAPACKS_BYTES)),
        (
            pb.RunLoopResponse(simState=STATE, doneFlag=True, timeoutFlag=True, trajectory=TRAJECTORY),
            field(1, STATE_BYTES) + b"\x10\x01\x18\x01" + field(4, TRAJECTORY_BYTES),
        ),
    ],
    ids=lambda value: value.DESCRIPTOR.full_name if isinstance(value, Message) else "",
)
def test_messages_are_written_as_nrp_core_1_4_reads_them(message: Message, on_the_wire: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == on_the_wire
    assert message.DESCRIPTOR.full_name.startswith("NrpCore.")


def test_there_are_the_calls_of_its_service() -> None:
    assert {
        name: (request.DESCRIPTOR.name, response.DESCRIPTOR.name) for name, (request, response) in METHODS.items()
    } == {
        "initialize": ("EmptyMessage", "InitializeResponse"),
        "runLoop": ("RunLoopMessage", "RunLoopResponse"),
        "runUntilTimeout": ("EmptyMessage", "RunLoopResponse"),
        "stopLoop": ("EmptyMessage", "Response"),
        "reset": ("ResetMessage", "ResetResponse"),
        "shutdown": ("EmptyMessage", "Response"),
    }


def test_what_is_handed_in_says_what_it_is() -> None:
    handed_in = HandedIn()
    handed_in.put_json("goal", "robot", {"x": [1, None]})
    handed_in.put_proto("words", "robot", importlib.import_module("nrp_shims.nrp_protobuf.dump_pb2").String())
    (values,), (message,) = handed_in.datapacks().jsonDataPacks, handed_in.datapacks().protoDataPacks
    assert (values.dataPackId.dataPackType, values.data.type_url) == (
        "JsonDataPack",
        "type.googleapis.com/NrpCore.JsonMessage",
    )
    assert (message.dataPackId.dataPackType, message.data.type_url) == (
        "Dump.String",
        "type.googleapis.com/Dump.String",
    )


def test_a_trajectory_of_values_and_messages_is_in_the_order_of_its_indices() -> None:
    trajectory = pb.Trajectory()
    words = importlib.import_module("nrp_shims.nrp_protobuf.wrappers_pb2").StringValue(value="w")
    for index, value in ((3, "3"), (0, "[]")):
        trajectory.jsonTrajectoryMessages.add(dataIndex=index).data.Pack(pb.JsonMessage(data=value))
    for index in (2, 1):
        trajectory.protoTrajectoryMessages.add(dataIndex=index).data.Pack(words)
    assert trajectory_of(pb.RunLoopResponse(trajectory=trajectory)) == [[], words, words, 3]
