"""Datapacks that carry protobuf messages, one class for every type of message.

Only experiments that have messages import this module: protobuf itself takes 50 ms to import.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from nrp_simserver.cores.embedded.datapacks import DataPack, DataPackIdentifier, RawData
from nrp_simserver.cores.embedded.proto_files import message_modules

_NO_DATAPACKS = frozenset({"EngineGrpc", "NrpCore"})
"""Packages whose messages are for talking to the original nrp-core, not the data of datapacks."""


def is_message(value: object) -> bool:
    """Whether something is a protobuf message."""
    return isinstance(value, Message)


def copied(message: Message) -> Message:
    """A deep copy; through its bytes, which for long arrays is 25 times as fast as CopyFrom."""
    return type(message).FromString(message.SerializePartialToString())


class ProtobufRawData(RawData):
    """A message without name and engine: what a status function adds to the trajectory."""

    __slots__ = ("_message", "_serialized")

    message_type: ClassVar[type[Message]]
    type: ClassVar[str]

    def __init__(self) -> None:
        # A message that nobody looked at is kept as bytes: these need not be copied for the next reader.
        self._serialized = b""
        self._message: Message | None = None

    @property
    def data(self) -> Any:
        """The message, with all that protobuf's messages have; another one of its type may be assigned.

        Raises:
            TypeError: what is assigned is no such message.
        """
        message = self._message
        if message is None:
            message = self._message = self.message_type.FromString(self._serialized)
        return message

    @data.setter
    def data(self, message: Any) -> None:
        if not (isinstance(message, Message) and message.DESCRIPTOR.full_name == self.type):
            raise TypeError(f"the data has to be a message of type {self.type}, it is {_described(message)}")
        self._message = self.message_type.FromString(message.SerializePartialToString())

    def isEmpty(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether there is no data at all: nothing was received yet."""
        return False

    def isUpdated(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether it was made or fetched in the present iteration."""
        return False

    def sent(self) -> Message:
        """A copy of the message."""
        return self.message_type.FromString(self.serialized())

    def serialized(self) -> bytes:
        """The message as bytes."""
        return self._serialized if self._message is None else self._message.SerializePartialToString()


class ProtobufDataPack(ProtobufRawData, DataPack):
    """A datapack with a message.

    Args:
        name: its name, unique within its engine.
        engine_name: the engine that it comes from or goes to.
    """

    __slots__ = ("_updated", "engine_name", "name")

    def __init__(self, name: str, engine_name: str) -> None:
        if not (isinstance(name, str) and isinstance(engine_name, str)):
            raise TypeError(f"the names of a datapack and of its engine are text, not {name!r} and {engine_name!r}")
        self.name = name
        self.engine_name = engine_name
        self._serialized = b""
        self._message = None
        self._updated = False

    @classmethod
    def holding(cls, name: str, engine_name: str, serialized: bytes) -> Self:
        """With the message that `serialized` stands for."""
        made = cls(name, engine_name)
        made._serialized = serialized
        return made

    @property
    def id(self) -> DataPackIdentifier:
        """Name, engine and type in one."""
        return DataPackIdentifier(self.name, self.engine_name, self.type)

    @classmethod
    def getType(cls) -> str:  # noqa: N802  nrp-core's name
        """The type of message, as "Dump.String"."""
        return cls.type

    def isUpdated(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether it was made or fetched in the present iteration."""
        return self._updated

    def view(self, *, updated: bool) -> Self:
        """The same datapack for another reader, with a message of its own."""
        made = type(self)(self.name, self.engine_name)
        made._serialized = self.serialized()
        made._updated = updated
        return made

    def mark(self, *, updated: bool) -> None:
        """Say whether it was made or fetched in the present iteration."""
        self._updated = updated

    def snapshot(self) -> Self:
        """A copy as it is now."""
        return self.holding(self.name, self.engine_name, self.serialized())


_datapack_classes: dict[type[Message], type[ProtobufDataPack]] = {}


def datapack_class(message_type: type[Message]) -> type[ProtobufDataPack]:
    """The class of the datapacks that carry messages of a type."""
    found = _datapack_classes.get(message_type)
    if found is None:
        made = _made("DataPack", ProtobufDataPack, message_type)
        found = _datapack_classes[message_type] = cast("type[ProtobufDataPack]", made)
    return found


def classes_by_name() -> dict[str, type[ProtobufRawData]]:
    """What functions import: `<Package><Message>DataPack` and `<Package><Message>RawData` for every message there is.

    These are the messages of all files in the package `nrp_protobuf`, the experiment's own included.
    """
    classes: dict[str, type[ProtobufRawData]] = {}
    for module in message_modules():
        file = module.DESCRIPTOR
        if file.package not in _NO_DATAPACKS:
            for descriptor in file.message_types_by_name.values():
                message_type = GetMessageClass(descriptor)
                raw_data = _made("RawData", ProtobufRawData, message_type)
                for made in (raw_data, datapack_class(message_type)):
                    classes[made.__name__] = made
    return classes


def message_type(full_name: str) -> type[Message] | None:
    """The class of the messages of a type such as "Dump.String", None when there is no such type."""
    pool = descriptor_pool.Default()
    for _ in range(2):
        try:
            return GetMessageClass(pool.FindMessageTypeByName(full_name))
        except KeyError:
            message_modules()  # nobody here may have imported that one yet
    return None


def packages() -> set[str]:
    """The protobuf packages that there are."""
    return {module.DESCRIPTOR.package for module in message_modules()}


def _made(kind: str, base: type[ProtobufRawData], message_type: type[Message]) -> type[ProtobufRawData]:
    descriptor = message_type.DESCRIPTOR
    name = descriptor.full_name.replace(".", "") + kind
    members = {"__slots__": (), "message_type": message_type, "type": descriptor.full_name, "__doc__": base.__doc__}
    return type(name, (base,), members)


def _described(value: object) -> str:
    return value.DESCRIPTOR.full_name if isinstance(value, Message) else type(value).__name__
