"""python_grpc: an engine that is a Python script of the experiment, with datapacks of protobuf messages."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self

from nrp_common.errors import EngineFailed
from nrp_simserver.cores.embedded.datapacks import DataPack
from nrp_simserver.cores.embedded.python_engine import PythonEngine, PythonScript

if TYPE_CHECKING:
    from google.protobuf.message import Message

logger = logging.getLogger(__name__)


class GrpcEngineScript(PythonScript):
    """What the file of a python_grpc engine subclasses as `Script`."""

    _types: dict[str, type[Message]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Scripts that have an __init__ of their own need not call this class's."""
        script = super().__new__(cls, *args, **kwargs)
        script._types = {}
        return script

    def _registerDataPack(  # noqa: N802  nrp-core's name
        self, datapack_name: str, datapack_type: type[Message]
    ) -> None:
        """Announce a datapack of this engine, and which type of message it carries: an empty one until it is set.

        Raises:
            ValueError: it was registered before.
            TypeError: `datapack_type` is no type of message.
        """
        if datapack_name in self._types:
            raise ValueError(f"datapack {datapack_name!r} is registered already")
        if not (isinstance(datapack_type, type) and issubclass(datapack_type, _message_class())):
            raise TypeError(
                f"datapack {datapack_name!r} has to be registered with a type of protobuf message,"
                f" such as nrp_protobuf.dump_pb2.String, not with {datapack_type!r}"
            )
        self._types[datapack_name] = datapack_type
        self._datapacks[datapack_name] = datapack_type()

    def _setDataPack(self, datapack_name: str, data: Message) -> None:  # noqa: N802  nrp-core's name
        """Set the message of a datapack.

        Raises:
            TypeError: it is no message, or not of the type that the datapack was registered with.
        """
        fault = self._fault(datapack_name, data)
        if fault:
            raise TypeError(fault)
        self._datapacks[datapack_name] = data

    def _fault(self, datapack_name: str, data: Any) -> str:
        """Why something cannot be the data of a datapack, "" when it can."""
        expected = self._types.get(datapack_name)
        if isinstance(data, _message_class() if expected is None else expected):
            return ""
        takes = "a protobuf message" if expected is None else _described(expected)
        return f"datapack {datapack_name!r} takes {takes}, not {_described(type(data))}"


class PythonGrpcEngine(PythonEngine):
    """Runs the class `Script` of the engine's file, whose datapacks are protobuf messages."""

    engine_type = "python_grpc"
    script_class = GrpcEngineScript

    _script: GrpcEngineScript

    def initialize(self) -> None:
        """Load the file, make its `Script` and initialise it."""
        from nrp_simserver.cores.embedded import protobuf_datapacks  # imports protobuf: not before it is needed

        self._datapack_class = protobuf_datapacks.datapack_class
        unknown = set(self.configuration.protobuf_packages) - protobuf_datapacks.packages()
        if unknown:
            logger.warning(
                "engine %s: ProtobufPackages names %s; neither the backend nor the experiment has such a .proto file",
                self.name,
                ", ".join(sorted(unknown)),
            )
        super().initialize()

    def get_datapack(self, name: str) -> DataPack:
        """The message that the script holds under this name, as it is at this moment."""
        message: Message = self._held(name)
        return self._datapack_class(type(message)).holding(name, self.name, message.SerializePartialToString())

    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Hand messages to the script, which keeps them until they are replaced."""
        for name, message in datapacks.items():
            fault = self._script._fault(name, message)
            if fault:
                raise EngineFailed(f"engine {self.name!r}: {fault}")
        super().set_datapacks(datapacks)


def _message_class() -> type[Message]:
    """The class of all messages. Whoever uses it has imported protobuf; others need not wait for that."""
    from google.protobuf.message import Message

    return Message


def _described(kind: type[Any]) -> str:
    """What a type of data is called: "Dump.String" of messages."""
    descriptor = getattr(kind, "DESCRIPTOR", None)
    return kind.__name__ if descriptor is None else str(descriptor.full_name)
