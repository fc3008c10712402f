"""What a model consists of, by kind: how the types of properties of a simulator are told apart and read.

A type of property is the name of a kind, such as "link", or of a kind and a field of it, such as "link_position".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Reader = Callable[[Any], Any]
"""Gives a present value of an element."""


class Kind(NamedTuple):
    """All that a model has of one kind.

    Attributes:
        elements: by name, in the simulator's order.
        read: gives the value that an element has by itself, or a reader for each of its fields.
    """

    elements: Mapping[str, Any]
    read: Reader | Mapping[str, Reader]


class Kinds:
    """The kinds of a model.

    Args:
        kinds: by name. Capitals make no difference.
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._types: dict[str, tuple[str, Mapping[str, Any], Reader]] = {}
        self._described = []
        for name, (elements, read) in kinds.items():
            if isinstance(read, Mapping):
                for field, read_field in read.items():
                    self._types[f"{name}_{field}".lower()] = name, elements, read_field
                self._described.append(f"{name} (or one of {', '.join(f'{name}_{field}' for field in read)})")
                read = _all_of(read)  # noqa: PLW2901
            else:
                self._described.append(name)
            self._types[name.lower()] = name, elements, read

    def names(self, datapack_type: str) -> list[str]:
        """The names of all elements of a type.

        Raises:
            ValueError: there is no such type.
        """
        return list(self._find(datapack_type)[1])

    def value(self, name: str, datapack_type: str) -> Any:
        """The present value of a type that an element has: of a kind with fields a dict of them.

        Raises:
            ValueError: there is no such type, or no element of that name.
        """
        kind, elements, read = self._find(datapack_type)
        if name not in elements:
            raise ValueError(f"the model has no {kind} {name!r}; there are: {', '.join(elements) or 'none'}")
        return read(elements[name])

    def _find(self, datapack_type: str) -> tuple[str, Mapping[str, Any], Reader]:
        found = self._types.get(datapack_type) or self._types.get(datapack_type.lower())
        if found is None:
            known = ", ".join(self._described)
            raise ValueError(f"there is nothing of type {datapack_type!r}; types are {known}")
        return found


def _all_of(readers: Mapping[str, Reader]) -> Reader:
    return lambda element: {field: read(element) for field, read in readers.items()}
