"""The FTI loop (fixed time increment): engines stepped in lockstep, functions run between their steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nrp_common.errors import EngineFailed, FunctionFailed
from nrp_simserver.cores.embedded.datapacks import DataPack, DataPackIdentifier, JsonDataPack, JsonRawData
from nrp_simserver.cores.embedded.engine import Engine
from nrp_simserver.cores.embedded.functions import Function, Input, function_error, misuse
from nrp_simserver.cores.embedded.json_values import delivered
from nrp_simserver.cores.embedded.surroundings import Occupant, Surroundings
from nrp_simserver.cores.error_place import locate

_REMEMBERED_TIMES = 4096
"""Plans are looked up by the time within the period after which all steps begin together, if it has at most so many."""


class CacheEntry:
    """What the functions last saw of one datapack.

    Attributes:
        datapack: None before it was made or fetched.
        iteration: the iteration in which that was.
        preprocessed: whether a preprocessing function made it.
    """

    __slots__ = ("datapack", "identifier", "iteration", "preprocessed")

    def __init__(self, identifier: tuple[str, str]) -> None:
        self.identifier = identifier
        self.clear()

    def clear(self) -> None:
        """Forget it."""
        self.datapack: DataPack | None = None
        self.iteration = -1
        self.preprocessed = False


class Plan(NamedTuple):
    """What happens in an iteration in which certain engines are due, in order."""

    due: tuple[int, ...]
    completions: list[Callable[[], None]]
    fetches: list[tuple[Engine[Any], list[tuple[str, CacheEntry]]]]
    preprocessing: list[Function]
    transceiver: list[Function]


class Loop:
    """Steps engines and runs functions. Knows no timeout and no states; after an exception only `reset` makes sense.

    In each iteration: the engines whose step ends complete it; the datapacks that functions ask of them enter the cache;
    preprocessing functions, then transceiver functions of those engines run, then the status function; results go to their
    engines; the engines start their next step. So what a function returns at t is what its target reads in the step
    that starts at t.

    Args:
        engines: initialised, in the order of the configuration; each with the occupant of the process that it is.
        functions: in the order of the configuration; at most one of them a status function.
        surroundings: switches between the engines and the functions.
        by_reference: whether functions get the cached datapacks themselves instead of copies.
        folder: the experiment's folder, to find errors in.

    Raises:
        FunctionFailed: a function is linked to an engine that does not exist, or asks one for datapacks.
    """

    def __init__(
        self,
        engines: list[tuple[Engine[Any], Occupant]],
        functions: list[Function],
        surroundings: Surroundings,
        functions_occupant: Occupant,
        folder: Path,
        *,
        by_reference: bool = False,
    ) -> None:
        self._engines = [engine for engine, _ in engines]
        self._occupants = [occupant for _, occupant in engines]
        self._index = {engine.name: index for index, engine in enumerate(self._engines)}
        self._surroundings = surroundings
        self._functions_occupant = functions_occupant
        self._folder = folder
        self._by_reference = by_reference
        self._functions = functions
        self._status = next((function for function in functions if function.kind == "status"), None)
        self._cache: dict[tuple[str, str], CacheEntry] = {}
        self._check_functions()
        self._wanted = self._requested()
        self._arguments = {function: self._argument_entries(function) for function in functions}
        self._waiting: list[dict[str, DataPack]] = [{} for _ in self._engines]
        self._steps = [engine.timestep_ns for engine in self._engines]
        self.timestep_ns = min(self._steps)
        self._period = math.lcm(*self._steps)
        self._periodic = sum(self._period // step for step in self._steps) <= _REMEMBERED_TIMES
        self._plan_at: dict[int, Plan] = {}
        self._plan_of: dict[tuple[int, ...], Plan] = {}
        self._restart()

    def _restart(self) -> None:
        self.time_ns = 0
        self.iteration = 0
        self._now = 0
        self._starts = [-1] * len(self._engines)
        self._ends = [0] * len(self._engines)
        self.trajectory: list[Any] = []

    def observations(self) -> list[Any]:
        """What the functions ask of the engines, as the engines hold it now: engines as configured, datapacks by name."""
        return [
            engine.get_datapack(name).content()
            for engine, wanted in zip(self._engines, self._wanted, strict=True)
            for name, _ in wanted
        ]

    def put(self, engine: str, datapack: DataPack) -> None:
        """Let a datapack wait for the next start of its engine; it replaces one of the same name that waits.

        Raises:
            KeyError: there is no such engine.
        """
        self._waiting[self._index[engine]][datapack.name] = datapack

    def engine_names(self) -> list[str]:
        """The engines, as configured."""
        return list(self._index)

    def reset(self, datapacks: list[tuple[str, DataPack]]) -> None:
        """Reset the engines and go back to t = 0; what waited or was cached is dropped.

        Args:
            datapacks: handed over to the engines named, once they are reset.
        """
        for index in range(len(self._engines)):
            self._engine_turn(index, self._engines[index].reset)
        self._restart()
        for entry in self._cache.values():
            entry.clear()
        for waiting in self._waiting:
            waiting.clear()
        for engine, datapack in datapacks:
            self.put(engine, datapack)
        for index, waiting in enumerate(self._waiting):
            if waiting:
                self._engine_turn(index, lambda index=index: self._deliver(index))  # type: ignore[misc]

    def step(self) -> bool:
        """Run all iterations in [t, t + smallest timestep). Returns whether the status function reported done in one."""
        self.time_ns += self.timestep_ns
        done = False
        while self._now < self.time_ns:
            done |= self._iterate()
        return done

    def complete(self) -> None:
        """Wait for the steps that engines are still in the middle of."""
        for index, engine in enumerate(self._engines):
            if self._starts[index] >= 0:
                self._engine_turn(index, engine.complete_step)

    def _iterate(self) -> bool:
        now = self._now
        plan = self._plan(now)
        iteration = self.iteration
        if iteration:
            for complete in plan.completions:
                complete()
        for engine, wanted in plan.fetches:
            for name, entry in wanted:
                entry.datapack = engine.get_datapack(name)
                entry.iteration = iteration
                entry.preprocessed = False
        self._surroundings.switch(self._functions_occupant)
        if plan.preprocessing:
            made = [(function, self._call(function)) for function in plan.preprocessing]
            for function, result in made:
                for datapack in self._datapacks(function, result):
                    self._remember(function, datapack)
        for function in plan.transceiver:
            for datapack in self._datapacks(function, self._call(function)):
                self._send(function, datapack)
        done = self._run_status() if self._status is not None else False
        for index in plan.due:
            self._start(index, now)
        self.iteration = iteration + 1
        self._now = min(self._ends)
        return done

    # -- engines --------------------------------------------------------------------------------------------------------

    def _start(self, index: int, now: int) -> None:
        self._surroundings.switch(self._occupants[index])
        step = self._steps[index]
        try:
            if self._waiting[index]:
                self._deliver(index)
            self._engines[index].start_step(step)
        except (Exception, SystemExit) as error:
            raise self._engine_error(index, error) from error
        self._starts[index] = now
        self._ends[index] = now + step

    def _deliver(self, index: int) -> None:
        waiting = self._waiting[index]
        self._waiting[index] = {}
        self._engines[index].set_datapacks(waiting)

    def _engine_turn(self, index: int, call: Callable[[], None]) -> None:
        self._surroundings.switch(self._occupants[index])
        try:
            call()
        except (Exception, SystemExit) as error:
            raise self._engine_error(index, error) from error

    def _engine_error(self, index: int, error: BaseException) -> EngineFailed:
        return engine_error(self._engines[index].name, error, self._folder)

    # -- functions ------------------------------------------------------------------------------------------------------

    def _call(self, function: Function) -> Any:
        iteration = self.iteration
        arguments: dict[str, Any] = {}
        for given, entries in self._arguments[function]:
            if given.source == "datapack":
                arguments[given.keyword] = self._seen(function, entries[0], iteration)
            elif given.source == "datapacks":
                arguments[given.keyword] = {
                    entry.identifier[0]: self._seen(function, entry, iteration) for entry in entries
                }
            elif given.source == "time":
                arguments[given.keyword] = self._now
            else:
                arguments[given.keyword] = iteration
        try:
            return function.call(**arguments)
        except (Exception, SystemExit) as error:
            raise function_error(function, error, self._folder) from error

    def _seen(self, function: Function, entry: CacheEntry, iteration: int) -> DataPack:
        datapack = entry.datapack
        if datapack is None or (entry.preprocessed and function.kind == "preprocessing"):
            return JsonDataPack.empty(*entry.identifier)
        updated = entry.iteration == iteration
        if self._by_reference:
            datapack.mark(updated=updated)
            return datapack
        return datapack.view(updated=updated)

    def _datapacks(self, function: Function, result: Any) -> list[Any]:
        """What a function returned, checked. Nothing at all counts as an empty list."""
        if result is None:
            return []
        if not isinstance(result, list | tuple):
            raise self._misuse(function, f"has to return a list of datapacks, it returned {type(result).__name__}")
        for datapack in result:
            if not hasattr(datapack, "engine_name") or not hasattr(datapack, "sent"):
                raise self._misuse(function, f"has to return datapacks, one of them is {type(datapack).__name__}")
            if datapack.engine_name not in self._index:
                raise self._misuse(
                    function,
                    f"returned datapack {datapack.name!r} for engine {datapack.engine_name!r}, which does not exist"
                    f" (engines are: {', '.join(self._index)})",
                )
        return list(result)

    def _remember(self, function: Function, datapack: Any) -> None:
        if datapack.engine_name != function.engine:
            raise self._misuse(
                function,
                f"returned datapack {datapack.name!r} for engine {datapack.engine_name!r}; a preprocessing function returns"
                f" datapacks of its own engine, {function.engine!r}",
            )
        key = (datapack.name, datapack.engine_name)
        entry = self._cache.get(key)
        if entry is None:
            entry = self._cache[key] = CacheEntry(key)
        entry.datapack = datapack.snapshot()
        entry.iteration = self.iteration
        entry.preprocessed = True

    def _send(self, function: Function, datapack: Any) -> None:
        try:
            sent = datapack.sent()
        except (TypeError, RuntimeError) as error:
            raise self._misuse(
                function, f"returned datapack {datapack.name!r}, which cannot be sent: {error}"
            ) from error
        self.put(datapack.engine_name, sent)

    def _run_status(self) -> bool:
        assert self._status is not None
        result = self._call(self._status)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], list | tuple)):
            raise self._misuse(self._status, "has to return (done, [JsonRawData, ...])")
        done, data = result
        for item in data:
            if not isinstance(item, JsonRawData):
                raise self._misuse(self._status, f"has to return a list of JsonRawData, one is {type(item).__name__}")
            self.trajectory.append(delivered(item.content()))
        return bool(done)

    def _misuse(self, function: Function, what: str) -> FunctionFailed:
        return misuse(function, what)

    # -- preparation ----------------------------------------------------------------------------------------------------

    def _check_functions(self) -> None:
        for function in self._functions:
            if function.kind != "status" and function.engine not in self._index:
                raise self._misuse(
                    function,
                    f"is linked to engine {function.engine!r}, which does not exist"
                    f" (engines are: {', '.join(self._index)})",
                )
            for given in function.inputs:
                for datapack in given.datapacks:
                    self._check_input(function, datapack)
            misfit = function.misfit()
            if misfit:
                raise self._misuse(function, f"cannot be called with its inputs: {misfit}")

    def _check_input(self, function: Function, datapack: DataPackIdentifier) -> None:
        if datapack.engine_name not in self._index:
            raise self._misuse(
                function,
                f"asks for datapack {datapack.name!r} of engine {datapack.engine_name!r}, which does not exist"
                f" (engines are: {', '.join(self._index)})",
            )
        if function.kind == "preprocessing" and datapack.engine_name != function.engine:
            raise self._misuse(
                function,
                f"asks for datapack {datapack.name!r} of engine {datapack.engine_name!r}; a preprocessing function gets"
                f" datapacks of its own engine, {function.engine!r}, only",
            )

    def _requested(self) -> list[list[tuple[str, CacheEntry]]]:
        names: list[set[str]] = [set() for _ in self._engines]
        for function in self._functions:
            for datapack in function.requested():
                names[self._index[datapack.engine_name]].add(datapack.name)
        return [
            [(name, self._entry(name, engine.name)) for name in sorted(wanted)]
            for engine, wanted in zip(self._engines, names, strict=True)
        ]

    def _argument_entries(self, function: Function) -> list[tuple[Input, list[CacheEntry]]]:
        return [
            (given, [self._entry(datapack.name, datapack.engine_name) for datapack in given.datapacks])
            for given in function.inputs
        ]

    def _entry(self, name: str, engine: str) -> CacheEntry:
        return self._cache.setdefault((name, engine), CacheEntry((name, engine)))

    def _plan(self, now: int) -> Plan:
        """The plan for the engines that are due now: those whose step began earlier first, then as configured."""
        remembered = self._periodic and now > 0
        if remembered:
            plan = self._plan_at.get(now % self._period)
            if plan is not None:
                return plan
        due = tuple(sorted((i for i, end in enumerate(self._ends) if end == now), key=lambda i: (self._starts[i], i)))
        plan = self._plan_of.get(due)
        if plan is None:
            plan = self._plan_of[due] = self._make_plan(due)
        if remembered:
            self._plan_at[now % self._period] = plan
        return plan

    def _make_plan(self, due: tuple[int, ...]) -> Plan:
        engines = [self._engines[index] for index in due]
        waiting_ones = [index for index in due if type(self._engines[index]).complete_step is not Engine.complete_step]
        return Plan(
            due,
            [lambda i=i: self._engine_turn(i, self._engines[i].complete_step) for i in waiting_ones],  # type: ignore[misc]
            [(self._engines[index], self._wanted[index]) for index in due if self._wanted[index]],
            [f for engine in engines for f in self._functions if f.kind == "preprocessing" and f.engine == engine.name],
            [f for engine in engines for f in self._functions if f.kind == "transceiver" and f.engine == engine.name],
        )


def engine_error(name: str, error: BaseException, folder: Path) -> EngineFailed:
    """The error of an engine that raised `error`."""
    place = locate(error, folder)
    if not place.file:
        return EngineFailed(f"engine {name!r}: {place.describe()}")
    return EngineFailed(place.describe(), file=place.file, line=place.line)
