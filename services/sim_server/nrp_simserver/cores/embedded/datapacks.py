"""Datapacks: the pieces of data that engines, functions and clients exchange, each named within its engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from nrp_simserver.cores.embedded.json_values import copied, delivered, from_function, to_text


class DataPackIdentifier(NamedTuple):
    """Which datapack: its name, the engine it belongs to, and its type, which is "" unless somebody said it."""

    name: str
    engine_name: str
    type: str = ""


class DataPack(Protocol):
    """What the loop asks of a datapack, whatever type of data it carries."""

    @property
    def name(self) -> str:
        """Its name, unique within its engine."""

    @property
    def engine_name(self) -> str:
        """The engine that it comes from or goes to."""

    def view(self, *, updated: bool) -> DataPack:
        """The same datapack for another owner: neither can see what the other changes."""

    def mark(self, *, updated: bool) -> None:
        """Say whether it was made or fetched in the present iteration."""

    def isEmpty(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether it carries no data at all."""

    def snapshot(self) -> DataPack:
        """A copy as it is now, whatever becomes of the original."""

    def sent(self) -> DataPack:
        """A copy as it arrives at an engine."""

    def content(self) -> Any:
        """Its data, for whoever holds the datapack alone: not copied."""

    def getType(self) -> str:  # noqa: N802  nrp-core's name
        """The type of its data."""


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

    @classmethod
    def sharing(cls, value: Any) -> NlohmannJson:
        """Over a converted tree that others read too; it is copied before anybody could change it."""
        made = cls.__new__(cls)
        made._value = value
        made._shared = True
        return made

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
        if type(value) is dict and type(key) is not str:
            raise TypeError(f"the data is a JSON object: its keys are text, not {type(key).__name__}")
        if type(value) not in (dict, list):
            raise TypeError(f"the data is {self._described()}: it cannot be indexed by {key!r}")
        item = value[key]
        if self._shared and type(item) in (dict, list):
            self._own()
            item = self._value[key]
        return item

    def __setitem__(self, key: str | int, item: Any) -> None:
        """Set a value; null data becomes an object by it. An array is never extended by it.

        Raises:
            TypeError: the value has no JSON form, or the data is not an object (for a text key) or an array.
            IndexError: the array has no such place.
        """
        item = _converted(item)
        self._own()
        if self._value is None and type(key) is str:
            self._value = {}
        if type(self._value) is dict and type(key) is not str:
            raise TypeError(f"the data is a JSON object: its keys are text, not {type(key).__name__}")
        if type(self._value) not in (dict, list):
            raise TypeError(f"the data is {self._described()}: {key!r} cannot be set in it")
        self._value[key] = item

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


_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean"}


class JsonRawData:
    """A piece of JSON data without name and engine: what a status function adds to the trajectory."""

    __slots__ = ("_empty", "_json", "_updated")

    def __init__(self) -> None:
        self._json = NlohmannJson()
        self._empty = False
        self._updated = False

    @property
    def data(self) -> NlohmannJson:
        """The data; anything with a JSON form may be assigned."""
        if self._empty:
            raise ValueError("the datapack is empty: nothing was received yet; ask isEmpty() before reading its data")
        return self._json

    @data.setter
    def data(self, value: Any) -> None:
        self._json = NlohmannJson(value)
        self._empty = False

    def isEmpty(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether there is no data at all: nothing was received yet."""
        return self._empty

    def isUpdated(self) -> bool:  # noqa: N802  nrp-core's name
        """Whether it was made or fetched in the present iteration."""
        return self._updated

    def content(self) -> Any:
        """The data as plain values: not copied."""
        return self._json._value


class JsonDataPack(JsonRawData):
    """A datapack with JSON data.

    Args:
        name: its name, unique within its engine.
        engine_name: the engine that it comes from or goes to.
    """

    __slots__ = ("engine_name", "name")

    type = "JsonDataPack"

    def __init__(self, name: str, engine_name: str) -> None:
        super().__init__()
        self.name = name
        self.engine_name = engine_name

    @classmethod
    def holding(cls, name: str, engine_name: str, value: Any, *, updated: bool = True) -> JsonDataPack:
        """Over a converted tree that others may read too."""
        made = cls.__new__(cls)
        made.name = name
        made.engine_name = engine_name
        made._json = NlohmannJson.sharing(value)
        made._empty = False
        made._updated = updated
        return made

    @classmethod
    def empty(cls, name: str, engine_name: str) -> JsonDataPack:
        """One that carries nothing: the engine or the function that makes it has not done so yet."""
        made = cls(name, engine_name)
        made._empty = True
        return made

    @property
    def id(self) -> DataPackIdentifier:
        """Name, engine and type in one."""
        return DataPackIdentifier(self.name, self.engine_name, self.type)

    @classmethod
    def getType(cls) -> str:  # noqa: N802  nrp-core's name
        """The type of datapack."""
        return cls.type

    def view(self, *, updated: bool) -> JsonDataPack:
        """The same datapack for another owner; its data is copied when one of the two could change it."""
        self._json._shared = True
        return JsonDataPack.holding(self.name, self.engine_name, self._json._value, updated=updated)

    def mark(self, *, updated: bool) -> None:
        """Say whether it was made or fetched in the present iteration."""
        self._updated = updated

    def snapshot(self) -> JsonDataPack:
        """A copy as it is now."""
        return JsonDataPack.holding(self.name, self.engine_name, from_function(self._json._value))

    def sent(self) -> JsonDataPack:
        """A copy as it arrives at an engine: NaN and infinities are None.

        Raises:
            TypeError: a value without a JSON form was put into a nested dict or list.
            RuntimeError: so was a key that is not text.
        """
        return JsonDataPack.holding(self.name, self.engine_name, delivered(self._json._value))


def _converted(value: Any) -> Any:
    if isinstance(value, NlohmannJson):
        return copied(value._value)
    return from_function(value)
