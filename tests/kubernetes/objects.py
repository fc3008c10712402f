"""What a cluster keeps: objects by kind and name, each change with a version, and a memory of changes that ends."""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Object = dict[str, Any]

Change = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True)
class Event:
    """A change of an object, as watches tell it."""

    version: int
    change: Change
    object: Object

    @property
    def kind(self) -> str:
        return str(self.object["kind"])


class AlreadyExists(Exception):
    """There is an object of this kind and name."""


class Expired(Exception):
    """The version is older than what is remembered."""


def now() -> str:
    """As Kubernetes writes times."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def labels_of(each: Object) -> dict[str, str]:
    return dict(each["metadata"].get("labels") or {})


def matches(each: Object, selector: str) -> bool:
    """Whether an object has the labels of a selector: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a`, `!a`, by commas."""
    labels = labels_of(each)
    return all(_holds(labels, requirement) for requirement in _requirements(selector))


def _requirements(selector: str) -> list[str]:
    found, depth, current = [], 0, ""
    for character in selector:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            found.append(current)
            current = ""
        else:
            current += character
    return [each.strip() for each in [*found, current] if each.strip()]


def _holds(labels: dict[str, str], requirement: str) -> bool:
    if " in " in requirement:
        key, _, values = requirement.partition(" in ")
        return labels.get(key.strip()) in [each.strip() for each in values.strip(" ()").split(",")]
    if "!=" in requirement:
        key, _, value = requirement.partition("!=")
        return labels.get(key.strip()) != value.strip()
    if "=" in requirement:
        key, _, value = requirement.replace("==", "=").partition("=")
        return labels.get(key.strip()) == value.strip()
    return requirement[1:] not in labels if requirement.startswith("!") else requirement in labels


class Objects:
    """Jobs and Pods of one namespace.

    Attributes:
        changed: is notified of every change, and guards all.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str], Object] = {}
        self._events: list[Event] = []
        self._version = 1000
        self._oldest = 1000

    @property
    def version(self) -> int:
        """Of the last change."""
        return self._version

    def all(self, kind: str, selector: str = "") -> list[Object]:
        with self.changed:
            found = [each for (of, _), each in sorted(self._objects.items()) if of == kind and matches(each, selector)]
            return copy.deepcopy(found)

    def get(self, kind: str, name: str) -> Object | None:
        with self.changed:
            return copy.deepcopy(self._objects.get((kind, name)))

    def add(self, new: Object) -> Object:
        with self.changed:
            key = (new["kind"], new["metadata"]["name"])
            if key in self._objects:
                raise AlreadyExists
            kept = copy.deepcopy(new)
            kept["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
            self._objects[key] = kept
            self._note("ADDED", kept)
            return copy.deepcopy(kept)

    def change(self, kind: str, name: str, alter: Callable[[Object], None]) -> Object | None:
        """Alter an object in place; nothing happens when it is not there, or does not change."""
        with self.changed:
            kept = self._objects.get((kind, name))
            if kept is None:
                return None
            before = copy.deepcopy(kept)
            alter(kept)
            if kept != before:
                self._note("MODIFIED", kept)
            return copy.deepcopy(kept)

    def remove(self, kind: str, name: str) -> None:
        with self.changed:
            gone = self._objects.pop((kind, name), None)
            if gone is not None:
                self._note("DELETED", gone)

    def _note(self, change: Change, each: Object) -> None:
        self._version += 1
        each["metadata"]["resourceVersion"] = str(self._version)
        self._events.append(Event(self._version, change, copy.deepcopy(each)))
        self.changed.notify_all()

    def since(self, version: int, kind: str) -> list[Event]:
        """What happened after a version.

        Raises:
            Expired: that is not remembered any more.
        """
        with self.changed:
            if version < self._oldest:
                raise Expired
            return [each for each in self._events if each.version > version and each.kind == kind]

    def forget(self) -> None:
        """Remember nothing of what happened so far."""
        with self.changed:
            self._version += 1
            self._oldest = self._version
            self._events.clear()
            self.changed.notify_all()
