"""What NRPCoreSim is told and tells, as messages: datapacks that are handed in, and trajectories."""

from __future__ import annotations

import importlib
import json
from operator import itemgetter
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from nrp_common.errors import CoreFailed
from nrp_simserver.cores.embedded.json_values import to_text
from nrp_simserver.cores.embedded.proto_files import message_modules

pb: Any = importlib.import_module("nrp_shims.nrp_protobuf.nrp_core_pb2")  # generated, and without types
carrier: Any = importlib.import_module("nrp_shims.nrp_protobuf.engine_grpc_pb2")

METHODS: Final[dict[str, tuple[Any, Any]]] = {
    "initialize": (pb.EmptyMessage, pb.InitializeResponse),
    "runLoop": (pb.RunLoopMessage, pb.RunLoopResponse),
    "runUntilTimeout": (pb.EmptyMessage, pb.RunLoopResponse),
    "stopLoop": (pb.EmptyMessage, pb.Response),
    "reset": (pb.ResetMessage, pb.ResetResponse),
    "shutdown": (pb.EmptyMessage, pb.Response),
}
"""What each call takes and returns."""

JSON_TYPE: Final = "JsonDataPack"
"""The type of a datapack of JSON values."""


class HandedIn:
    """The datapacks that go to NRPCoreSim with the next request; the last of two of a name wins."""

    def __init__(self) -> None:
        self._json: dict[tuple[str, str], Any] = {}
        self._proto: dict[tuple[str, str], Any] = {}

    def __bool__(self) -> bool:
        return bool(self._json or self._proto)

    def put_json(self, datapack: str, engine: str, value: Any) -> None:
        """Add JSON values, converted to plain ones already."""
        self._json[datapack, engine] = _datapack(datapack, engine, JSON_TYPE, pb.JsonMessage(data=to_text(value)))

    def put_proto(self, datapack: str, engine: str, message: Message) -> None:
        """Add a copy of a protobuf message."""
        self._proto[datapack, engine] = _datapack(datapack, engine, message.DESCRIPTOR.full_name, message)

    def take(self) -> Any:
        """All of them as a `DataPacks` message. There are none then."""
        packs = pb.DataPacks(jsonDataPacks=self._json.values(), protoDataPacks=self._proto.values())
        self._json.clear()
        self._proto.clear()
        return packs


def trajectory_of(response: Any) -> list[Any]:
    """The trajectory, or the observations, of a response: JSON values and messages in the order of their `dataIndex`.

    Raises:
        CoreFailed: it is not what a trajectory has to be.
    """
    json_part = response.trajectory.jsonTrajectoryMessages
    proto_part = response.trajectory.protoTrajectoryMessages
    placed = [(entry.dataIndex, _json_value(entry.data)) for entry in json_part]
    placed += [(entry.dataIndex, _message(entry.data)) for entry in proto_part]
    placed.sort(key=itemgetter(0))
    places = [place for place, _ in placed]
    if places != list(range(len(placed))):
        raise CoreFailed(f"NRPCoreSim sent a wrong trajectory: its {len(placed)} entries have the places {places}")
    return [value for _, value in placed]


def _datapack(name: str, engine: str, kind: str, message: Message) -> Any:
    made = carrier.DataPackMessage()
    made.dataPackId.dataPackName = name
    made.dataPackId.dataPackType = kind
    made.dataPackId.engineName = engine
    made.data.Pack(message)
    return made


def _json_value(data: Any) -> Any:
    try:
        return json.loads(pb.JsonMessage.FromString(data.value).data)
    except (DecodeError, ValueError) as error:
        raise CoreFailed(f"NRPCoreSim sent a wrong trajectory: an entry is not JSON: {error}") from None


def _message(data: Any) -> Message:
    kind = data.TypeName()
    try:
        return _message_class(kind).FromString(data.value)
    except KeyError:
        raise CoreFailed(
            f"NRPCoreSim sent a {kind}: neither the backend nor the experiment has a .proto file with such a message"
        ) from None
    except DecodeError as error:
        raise CoreFailed(f"NRPCoreSim sent a wrong trajectory: an entry is no {kind}: {error}") from None


def _message_class(kind: str) -> type[Message]:
    pool = descriptor_pool.Default()
    try:
        return GetMessageClass(pool.FindMessageTypeByName(kind))
    except KeyError:
        message_modules()  # loads them all
        return GetMessageClass(pool.FindMessageTypeByName(kind))
