"""What MQTT nodes publish and get: the types of messages, and their bytes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nrp_simserver.cores.embedded.datapacks import JsonDataPack, JsonRawData, NlohmannJson, RawData
from nrp_simserver.cores.embedded.json_values import from_engine, is_json, to_text

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from nrp_simserver.cores.embedded.protobuf_datapacks import ProtobufRawData


class PayloadType(ABC):
    """A type that MQTT nodes are declared with."""

    @staticmethod
    def of(declared: Any, decorator: str) -> PayloadType:
        """What the `type` of a decorator stands for.

        Raises:
            TypeError: for nothing.
        """
        if declared in (JsonDataPack, JsonRawData, NlohmannJson):
            return _Json(declared)
        if declared in (str, bytes):
            return _Plain(declared)
        # Told by what they have: whoever declares no messages need not wait for protobuf.
        if isinstance(declared, type) and hasattr(declared, "message_type"):
            return _Messages(declared.message_type, declared)
        if isinstance(declared, type) and hasattr(declared, "DESCRIPTOR"):
            return _Messages(declared, None)
        raise TypeError(
            f"{decorator}: type has to be JsonDataPack, JsonRawData, NlohmannJson, str, bytes, a type of protobuf"
            f" message, or a DataPack or RawData of one; it is {getattr(declared, '__name__', repr(declared))}"
        )

    @abstractmethod
    def read(self, topic: str, payload: bytes) -> Callable[[bool], Any]:
        """What makes an argument of a function of these bytes, whenever it is called with one: told whether it is new.

        Raises:
            ValueError: the bytes are no message of this type.
        """

    @abstractmethod
    def bytes_of(self, message: Any) -> bytes:
        """The bytes of what a node puts out.

        Raises:
            TypeError: it is not of this type.
            RuntimeError: a key in it is not text.
        """


class _Json(PayloadType):
    """JSON text."""

    def __init__(self, declared: type[JsonRawData | NlohmannJson]) -> None:
        self._declared = declared

    def read(self, topic: str, payload: bytes) -> Callable[[bool], Any]:
        try:
            value = from_engine(json.loads(payload))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if self._declared is JsonDataPack:
            return lambda is_new: JsonDataPack.holding(topic, "", value, updated=is_new)
        if self._declared is NlohmannJson:
            return lambda _: NlohmannJson(value)
        return lambda _: _raw(value)

    def bytes_of(self, message: Any) -> bytes:
        value = content(message)
        if not is_json(value):
            raise TypeError(f"it has to have a JSON form, it is {type(value).__name__}")
        return to_text(value).encode()


class _Plain(PayloadType):
    """Text in UTF-8, or bytes as they are."""

    def __init__(self, declared: type[str | bytes]) -> None:
        self._declared = declared

    def read(self, topic: str, payload: bytes) -> Callable[[bool], Any]:  # noqa: ARG002
        message = payload.decode() if self._declared is str else payload
        return lambda _: message

    def bytes_of(self, message: Any) -> bytes:
        if not isinstance(message, self._declared):
            raise TypeError(f"it has to be {self._declared.__name__}, it is {type(message).__name__}")
        return message.encode() if isinstance(message, str) else message


class _Messages(PayloadType):
    """Serialised protobuf messages, which functions get as they are, or in a datapack or raw data."""

    def __init__(self, message_type: type[Message], wrapper: type[ProtobufRawData] | None) -> None:
        self._message_type = message_type
        self._wrapper = wrapper

    def read(self, topic: str, payload: bytes) -> Callable[[bool], Any]:
        from google.protobuf.message import DecodeError  # who declared messages has imported it

        try:
            self._message_type.FromString(payload)
        except DecodeError as error:
            raise ValueError(str(error)) from None
        return lambda is_new: self._wrapped(topic, self._message_type.FromString(payload), is_new)

    def _wrapped(self, topic: str, message: Message, is_new: bool) -> Any:
        if self._wrapper is None:
            return message
        from nrp_simserver.cores.embedded.protobuf_datapacks import ProtobufDataPack

        if not issubclass(self._wrapper, ProtobufDataPack):
            raw_data = self._wrapper()
            raw_data.data = message
            return raw_data
        datapack = self._wrapper(topic, "")
        datapack.data = message
        datapack.mark(updated=is_new)
        return datapack

    def bytes_of(self, message: Any) -> bytes:
        value = content(message)
        expected = self._message_type.DESCRIPTOR.full_name
        if is_json(value) or value.DESCRIPTOR.full_name != expected:
            found = type(value).__name__ if is_json(value) else value.DESCRIPTOR.full_name
            raise TypeError(f"it has to be a message of type {expected}, it is {found}")
        serialised: bytes = value.SerializePartialToString()
        return serialised


def content(message: Any) -> Any:
    """A copy of the JSON values or the protobuf message that a node puts out, in whatever form it does.

    Raises:
        TypeError: it has no JSON form and is no message.
        RuntimeError: a key in it is not text.
    """
    if isinstance(message, RawData):
        return message.sent()
    if hasattr(message, "DESCRIPTOR"):
        from nrp_simserver.cores.embedded import protobuf_datapacks  # there is a message, so protobuf is imported

        return protobuf_datapacks.copied(message)
    return _raw(message).sent()


def _raw(value: Any) -> JsonRawData:
    made = JsonRawData()
    made.data = value
    return made
