"""What a process has imported since it was looked at last, found without touching what it had imported before.

To look at a module is to write to it, as Python counts references: a process forked from one that has imported hundreds
would get a copy of a page of memory for each of them, and lose milliseconds and megabytes over it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import ClassVar


class Imports:
    """The modules of this process, as far as somebody knows them.

    Attributes:
        known: how many there were when they were looked at last.
    """

    _shared: ClassVar[Imports | None] = None

    def __init__(self) -> None:
        shared = Imports._shared
        self.known: int = 0 if shared is None else shared.known
        self._latest: tuple[str, ModuleType] | None = None if shared is None else shared._latest

    @classmethod
    def share(cls) -> None:
        """Take all that this process has imported so far for no experiment's own."""
        shared = cls()
        shared.note()
        cls._shared = shared

    def note(self) -> None:
        """Know all that there is now."""
        self.known = len(sys.modules)
        self._latest = next(reversed(sys.modules.items()))

    def new(self) -> dict[str, ModuleType]:
        """The modules that are new by now; all that there are, when some have gone. They are known from then on."""
        while True:
            try:
                new = self._behind_the_latest()
                break
            except RuntimeError:  # another thread has just imported something
                continue
        self.note()
        return new

    def _behind_the_latest(self) -> dict[str, ModuleType]:
        if self._latest is not None:
            name, module = self._latest
            new: dict[str, ModuleType] = {}
            for each, its_module in reversed(sys.modules.items()):  # in the order of their import
                if each == name and its_module is module:
                    break
                new[each] = its_module
            if self.known + len(new) == len(sys.modules):
                return new
        return sys.modules.copy()
