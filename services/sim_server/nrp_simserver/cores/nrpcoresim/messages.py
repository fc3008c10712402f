"""What NRPCoreSim is told and tells, as messages: datapacks that are handed in, and trajectories."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from contextlib import suppress
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

    def datapacks(self) -> Any:
        """All of them as a `DataPacks` message."""
        return pb.DataPacks(jsonDataPacks=self._json.values(), protoDataPacks=self._proto.values())

    def clear(self) -> None:
        """There are none any more."""
        self._json.clear()
        self._proto.clear()


def trajectory_of(response: Any) -> list[Any]:
    """The trajectory of a response: JSON values and messages in the order of their `dataIndex`.

    Raises:
        CoreFailed: it is not what a trajectory has to be.
    """
    return _in_order(response.trajectory, _message)


def observations_of(response: Any) -> list[Any]:
    """The observations of a response, in the same order.

    A message of a type that is not known here, such as a camera's image in Gazebo, is in its `google.protobuf.Any`: an
    experiment is not to fail for what its script may not even look at.

    Raises:
        CoreFailed: they are not what observations have to be.
    """
    return _in_order(response.trajectory, lambda data: _message(data) if _message_class(data.TypeName()) else data)


def _in_order(trajectory: Any, unpacked: Callable[[Any], Message]) -> list[Any]:
    placed = [(entry.dataIndex, _json_value(entry.data)) for entry in trajectory.jsonTrajectoryMessages]
    placed += [(entry.dataIndex, unpacked(entry.data)) for entry in trajectory.protoTrajectoryMessages]
    missing = set(range(len(placed))).difference(place for place, _ in placed)
    if missing:
        raise CoreFailed(
            f"NRPCoreSim sent a wrong trajectory: of its {len(placed)} entries none is number {min(missing)}"
        )
    placed.sort(key=itemgetter(0))
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
    message_class = _message_class(data.TypeName())
    if message_class is None:
        raise CoreFailed(
            f"NRPCoreSim sent a {data.TypeName()}: neither the backend nor the experiment has a .proto file with such"
            " a message"
        )
    try:
        return message_class.FromString(data.value)
    except DecodeError as error:
        raise CoreFailed(f"NRPCoreSim sent a wrong trajectory: an entry is no {data.TypeName()}: {error}") from None


def _message_class(kind: str) -> type[Message] | None:
    pool = descriptor_pool.Default()
    with suppress(KeyError):
        return GetMessageClass(pool.FindMessageTypeByName(kind))
    message_modules()  # loads them all
    with suppress(KeyError):
        return GetMessageClass(pool.FindMessageTypeByName(kind))
    return None
