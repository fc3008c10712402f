"""Datapacks: the pieces of data that engines, functions and clients exchange, each named within its engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from nrp_simserver.cores.embedded.json_values import copied, delivered, from_function, to_text


class DataPackIdentifier(NamedTuple):
    """Which datapack: its name, the engine it belongs to, and its type, which is "" unless somebody said it."""

    name: str
    engine_name: str
    type: str = ""


class RawData(ABC):
    """A piece of data without name and engine, of whatever type."""

    __slots__ = ()

    @abstractmethod
    def sent(self) -> Any:
        """A copy of the data as it arrives at an engine or a client."""


class DataPack(RawData):
    """What the loop asks of a datapack, whatever type of data it carries.

    Attributes:
        name: its name, unique within its engine.
        engine_name: the engine that it comes from or goes to.
    """

    __slots__ = ()

    name: str
    engine_name: str

    @abstractmethod
    def view(self, *, updated: bool) -> DataPack:
        """The same datapack for another reader, who cannot change what others see of it."""

    @abstractmethod
    def mark(self, *, updated: bool) -> None:
        """Say whether it was made or fetched in the present iteration."""

    @abstractmethod
    def snapshot(self) -> DataPack:
        """A copy as it is now, whatever becomes of the original."""


class NlohmannJson:
    """The data of a JsonDataPack: null at first, an object once a key is set, an array once something is appended.

    What it hands out is live: a nested dict or list that is changed is changed in here.

    Args:
        value: anything with a JSON form, see `from_function`.
    """

    __slots__ = ("_shared", "_value")

    def __init__(self, value: Any = None) -> None:
        self._value = _converted(value)
        self._shared = False

    def _own(self) -> None:
        if self._shared:
            self._value = copied(self._value)
            self._shared = False

    def __getitem__(self, key: str | int) -> Any:
        """The value of a key or at a place; nested values as dict and list.

        Raises:
            KeyError: the object has no such key.
            IndexError: the array has no such place.
            TypeError: it is neither an object nor an array, or the other of the two.
        """
        value = self._value
        if type(value) is dict:
            if type(key) is not str:
                raise TypeError(f"the data is a JSON object: its keys are text, not {type(key).__name__}")
        elif type(value) is not list:
            raise TypeError(f"the data is {self._described()}: it cannot be indexed by {key!r}")
        item = value[key]
        if self._shared and (type(item) is dict or type(item) is list):
            self._own()
            item = self._value[key]
        return item

    def __setitem__(self, key: str | int, item: Any) -> None:
        """Set a value; null data becomes an object by it. An array is never extended by it.

        Raises:
            TypeError: the value has no JSON form, or the data is not an object (for a text key) or an array.
            IndexError: the array has no such place.
        """
        if type(item) not in _NUMBERS:
            item = _converted(item)
        if self._shared:
            self._own()
        value = self._value
        if value is None and type(key) is str:
            value = self._value = {}
        if type(value) is dict:
            if type(key) is not str:
                raise TypeError(f"the data is a JSON object: its keys are text, not {type(key).__name__}")
        elif type(value) is not list:
            raise TypeError(f"the data is {self._described()}: {key!r} cannot be set in it")
        value[key] = item

    def append(self, item: Any) -> None:
        """Add a value at the end; null data becomes an array by it."""
        item = _converted(item)
        self._own()
        if self._value is None:
            self._value = []
        if type(self._value) is not list:
            raise TypeError(f"the data is {self._described()}: nothing can be appended to it")
        self._value.append(item)

    def keys(self) -> list[str]:
        """The keys of an object, sorted; none for anything else."""
        return sorted(self._value) if type(self._value) is dict else []

    def json_type(self) -> str:
        """One of "null", "object", "array", "string", "boolean", "number"."""
        value = self._value
        if value is None:
            return "null"
        return _JSON_TYPES.get(type(value), "number")

    def __len__(self) -> int:
        """The number of keys or elements; 0 for null and 1 for any other value."""
        value = self._value
        return len(value) if type(value) in (dict, list) else int(value is not None)

    def __contains__(self, item: object) -> bool:
        return type(self._value) in (dict, list) and item in self._value

    def __iter__(self) -> Iterator[Any]:
        """The keys of an object, sorted, or the elements of an array."""
        if type(self._value) is list:
            self._own()
            return iter(self._value)
        return iter(self.keys())

    def __eq__(self, other: object) -> bool:
        return bool(self._value == (other._value if isinstance(other, NlohmannJson) else other))

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return to_text(self._value)

    __repr__ = __str__

    def _described(self) -> str:
        return f"a JSON {self.json_type()}"


_new_json = NlohmannJson.__new__

_NUMBERS = frozenset({int, float, bool})
"""Types of values that need no conversion, found by one look-up."""

_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean"}


class JsonRawData(RawData):
    """A piece of JSON data without name and engine: what a status function adds to the trajectory."""

    __slots__ = ("_json", "_value")

    def __init__(self) -> None:
        self._json: NlohmannJson | None = None
        self._value: Any = None

    @property
    def data(self) -> NlohmannJson:
        """The data; anything with a JSON form may be assigned."""
        json = self._json
        if json is None:
            json = self._json = _new_json(NlohmannJson)
            json._value = self._value
            json._shared = True
        return json

    @data.setter
    def data(self, value: Any) -> None:
        self._json = NlohmannJson(value)

    def isEmpty(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether there is no data at all: nothing was received yet."""
        return False

    def isUpdated(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether it was made or fetched in the present iteration."""
        return False

    def content(self) -> Any:
        """The data as plain values: not copied."""
        return self._value if self._json is None else self._json._value

    def sent(self) -> Any:
        """A copy of the data as it arrives at an engine or a client: NaN and infinities are None.

        Raises:
            TypeError: a value without a JSON form was put into a nested dict or list.
            RuntimeError: so was a key that is not text.
        """
        return delivered(self._value if self._json is None else self._json._value)


class JsonDataPack(JsonRawData, DataPack):
    """A datapack with JSON data.

    Args:
        name: its name, unique within its engine.
        engine_name: the engine that it comes from or goes to.
    """

    __slots__ = ("_updated", "engine_name", "name")

    type = "JsonDataPack"

    def __init__(self, name: str, engine_name: str) -> None:
        if not (isinstance(name, str) and isinstance(engine_name, str)):
            raise TypeError(f"the names of a datapack and of its engine are text, not {name!r} and {engine_name!r}")
        self.name = name
        self.engine_name = engine_name
        self._json = None
        self._value = None
        self._updated = False

    @classmethod
    def holding(cls, name: str, engine_name: str, value: Any, *, updated: bool = False) -> JsonDataPack:
        """Over a converted tree that others may read too: it is copied before it is changed."""
        made = cls.__new__(cls)
        made.name = name
        made.engine_name = engine_name
        made._json = None
        made._value = value
        made._updated = updated
        return made

    @property
    def id(self) -> DataPackIdentifier:
        """Name, engine and type in one."""
        return DataPackIdentifier(self.name, self.engine_name, self.type)

    @classmethod
    def getType(cls) -> str:  # noqa: N802  nrp-core's name
        """The type of datapack."""
        return cls.type

    def isUpdated(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether it was made or fetched in the present iteration."""
        return self._updated

    def view(self, *, updated: bool) -> JsonDataPack:
        """The same datapack for another reader; its data is copied when that one could change it."""
        return JsonDataPack.holding(self.name, self.engine_name, self._value, updated=updated)

    def mark(self, *, updated: bool) -> None:
        """Say whether it was made or fetched in the present iteration."""
        self._updated = updated

    def snapshot(self) -> JsonDataPack:
        """A copy as it is now."""
        return JsonDataPack.holding(self.name, self.engine_name, from_function(self.content()))


class EmptyDataPack(JsonDataPack):
    """What a function gets of a datapack that nobody has made yet: reading its data is an error, and sending it."""

    __slots__ = ()

    def isEmpty(self) -> bool:  # noqa: N802  nrp-core's name
        """That it is."""
        return True

    @property  # type: ignore[misc]  # there is nothing to assign to either
    def data(self) -> NlohmannJson:
        """Not there.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"datapack {self.name!r} of engine {self.engine_name!r} is empty: ask isEmpty() before its data"
        )

    def content(self) -> Any:
        """Not there. Raises TypeError."""
        raise TypeError("it is empty, nobody has made it yet")

    sent = content


def _converted(value: Any) -> Any:
    if isinstance(value, NlohmannJson):
        return copied(value._value)
    return from_function(value)
