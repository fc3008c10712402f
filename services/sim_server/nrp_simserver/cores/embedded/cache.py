"""What functions see: the last of each datapack that an engine gave or a preprocessing function made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nrp_simserver.cores.embedded.datapacks import DataPack, DataPackIdentifier, EmptyDataPack
from nrp_simserver.cores.embedded.functions import Function, Input


class Clock:
    """The loop's clock.

    Attributes:
        now: the simulated time in nanoseconds of the present iteration, or of the next one between two.
        iteration: its number, counted from 0.
    """

    __slots__ = ("iteration", "now")

    def __init__(self) -> None:
        self.now = 0
        self.iteration = 0


class CacheEntry:
    """One datapack, as functions last saw it.

    Attributes:
        datapack: None before it was made or fetched.
        iteration: the iteration in which that was.
        preprocessed: whether a preprocessing function made it.
        fetched: the engine's own of that name, which it then took the place of; None when there was none.
    """

    __slots__ = ("_clock", "datapack", "engine_name", "fetched", "iteration", "name", "preprocessed")

    def __init__(self, clock: Clock, name: str, engine_name: str) -> None:
        self._clock = clock
        self.name = name
        self.engine_name = engine_name
        self.datapack: DataPack | None = None
        self.iteration = -1
        self.preprocessed = False
        self.fetched: DataPack | None = None

    def view(self) -> DataPack:
        """The datapack for a reader of its own."""
        datapack = self.datapack
        if datapack is None:
            return EmptyDataPack(self.name, self.engine_name)
        return datapack.view(updated=self.iteration == self._clock.iteration)

    def itself(self) -> DataPack:
        """The datapack that all readers share."""
        datapack = self.datapack
        if datapack is None:
            return EmptyDataPack(self.name, self.engine_name)
        datapack.mark(updated=self.iteration == self._clock.iteration)
        return datapack


class Cache:
    """The datapacks that functions read.

    Args:
        clock: tells what is new.
        by_reference: whether all functions get the same datapack, so that one sees what another changes in it.
    """

    def __init__(self, clock: Clock, *, by_reference: bool) -> None:
        self._clock = clock
        self._by_reference = by_reference
        self._entries: dict[tuple[str, str], CacheEntry] = {}
        self._made: dict[tuple[str, str], CacheEntry] = {}

    def clear(self) -> None:
        """Forget all datapacks."""
        for entry in (*self._entries.values(), *self._made.values()):
            entry.datapack = entry.fetched = None
            entry.iteration = -1
            entry.preprocessed = False

    def remember(self, datapack: DataPack) -> None:
        """Take over what a preprocessing function made in this iteration.

        It takes the place of an engine's own datapack of that name until that is fetched again; who asks for what was
        preprocessed gets it for longer.
        """
        entry, made = self.entry(datapack.name, datapack.engine_name), self._made_entry(datapack)
        if not entry.preprocessed:
            entry.fetched = entry.datapack
        entry.datapack = made.datapack = datapack
        entry.iteration = made.iteration = self._clock.iteration
        entry.preprocessed = True

    def requested(self, engine: str, functions: list[Function]) -> list[tuple[str, CacheEntry]]:
        """The datapacks that functions ask of an engine, sorted by name."""
        names = {
            datapack.name
            for function in functions
            for datapack in function.requested()
            if datapack.engine_name == engine
        }
        return [(name, self.entry(name, engine)) for name in sorted(names)]

    def arguments(self, function: Function) -> list[tuple[str, Callable[[], Any]]]:
        """For each argument of a function its keyword and what makes its value."""
        return [(given.keyword, self._maker(function, given)) for given in function.inputs]

    def _maker(self, function: Function, given: Input) -> Callable[[], Any]:
        clock = self._clock
        if given.source == "time":
            return lambda: clock.now
        if given.source == "iteration":
            return lambda: clock.iteration
        readers = [(datapack.name, self._reader(function, given, datapack)) for datapack in given.datapacks]
        if given.source == "datapack":
            return readers[0][1]
        return lambda: {name: read() for name, read in readers}

    def _reader(self, function: Function, given: Input, datapack: DataPackIdentifier) -> Callable[[], DataPack]:
        entry = self.entry(datapack.name, datapack.engine_name)
        read = self._reading(entry)
        if function.kind == "preprocessing":
            return lambda: self._unprocessed(entry) if entry.preprocessed else read()
        if given.preprocessed:
            made = self._made_entry(datapack)
            read_made = self._reading(made)
            return lambda: read() if made.datapack is None else read_made()
        return read

    def _reading(self, entry: CacheEntry) -> Callable[[], DataPack]:
        return entry.itself if self._by_reference else entry.view

    def _unprocessed(self, entry: CacheEntry) -> DataPack:
        """What preprocessing functions see: nothing that another one makes, nor what it made an iteration ago."""
        fetched = entry.fetched
        if fetched is None:
            return EmptyDataPack(entry.name, entry.engine_name)
        if not self._by_reference:
            return fetched.view(updated=True)
        fetched.mark(updated=True)
        return fetched

    def entry(self, name: str, engine_name: str) -> CacheEntry:
        """Where a datapack is kept."""
        return self._entries.setdefault((name, engine_name), CacheEntry(self._clock, name, engine_name))

    def _made_entry(self, datapack: DataPackIdentifier | DataPack) -> CacheEntry:
        name, engine_name = datapack.name, datapack.engine_name
        return self._made.setdefault((name, engine_name), CacheEntry(self._clock, name, engine_name))
