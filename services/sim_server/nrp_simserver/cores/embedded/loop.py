"""The FTI loop (fixed time increment): engines stepped in lockstep, functions run between their steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nrp_simserver.cores.embedded.cache import Cache, CacheEntry, Clock
from nrp_simserver.cores.embedded.datapacks import DataPack, RawData
from nrp_simserver.cores.embedded.engine import Engine, engine_error
from nrp_simserver.cores.embedded.functions import Function, function_error, misuse
from nrp_simserver.cores.embedded.schedule import Schedule
from nrp_simserver.cores.embedded.surroundings import Occupant, Surroundings


class Member(NamedTuple):
    """An engine that takes part.

    Attributes:
        engine: initialised.
        occupant: what is the engine's own in this process.
        waiting: datapacks for the next start of the engine, by name.
    """

    engine: Engine[Any]
    occupant: Occupant
    waiting: dict[str, Any]


class Plan(NamedTuple):
    """What happens in an iteration in which certain engines are due, in order."""

    to_complete: list[Member]
    fetches: list[tuple[Engine[Any], list[tuple[str, CacheEntry]]]]
    preprocessing: list[Function]
    transceiver: list[Function]
    to_start: list[Member]


class Loop:
    """Steps engines and runs functions. Knows no timeout and no states; after an exception only `reset` makes sense.

    In each iteration: the engines whose step ends complete it; the datapacks that functions ask of them enter the
    cache; the preprocessing functions, then the transceiver functions of those engines run, then the status function;
    results go to their engines; the engines start their next step. So what a function returns at t is what its target
    reads in the step that starts at t.

    Args:
        engines: initialised, in the order of the configuration; each with its occupant of the process.
        functions: in the order of the configuration; at most one of them is a status function.
        surroundings: switches the process between the engines and the functions.
        occupant: the functions'.
        folder: the experiment's folder, to find errors in.
        timestep_ns: how long a step of the loop is.
        by_reference: whether functions get the cached datapacks themselves instead of views of their own.

    Raises:
        FunctionFailed: a function is linked to an engine that does not exist, or cannot have the inputs it asks for.
    """

    def __init__(
        self,
        engines: list[tuple[Engine[Any], Occupant]],
        functions: list[Function],
        surroundings: Surroundings,
        occupant: Occupant,
        folder: Path,
        *,
        timestep_ns: int,
        by_reference: bool = False,
    ) -> None:
        self._members = {engine.name: Member(engine, own, {}) for engine, own in engines}
        self._order = list(self._members.values())
        self._surroundings = surroundings
        self._occupant = occupant
        self._folder = folder
        for function in functions:
            self._check(function)
        self._functions = functions
        self._status = next((function for function in functions if function.kind == "status"), None)
        self.clock = Clock()
        self._cache = Cache(self.clock, by_reference=by_reference)
        self._arguments = {function: self._cache.arguments(function) for function in functions}
        self._wanted = {name: self._cache.requested(name, functions) for name in self._members}
        # The loop's own step comes last: something happens at its beginning, also without an engine that is due then.
        self._schedule = Schedule([*(engine.timestep_ns for engine, _ in engines), timestep_ns])
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._timestep_ns = timestep_ns
        self.time_ns = 0
        self.trajectory: list[Any] = []

    def observations(self) -> list[Any]:
        """What the functions ask of the engines, as these hold it now: engines as configured, datapacks by name."""
        observed: list[Any] = []
        for engine, _, _ in self._order:
            try:
                observed += [engine.get_datapack(name).sent() for name, _ in self._wanted[engine.name]]
            except (Exception, SystemExit) as error:
                raise engine_error(engine, error) from error
        return observed

    def put(self, engine: str, name: str, content: Any) -> None:
        """Let data wait for the next start of its engine; it replaces what waits under this name."""
        self._members[engine].waiting[name] = content

    def reset(self, handed_in: list[tuple[str, str, Any]]) -> None:
        """Reset the engines and go back to t = 0; what waited or was cached is dropped.

        Args:
            handed_in: (engine, datapack name, content), handed over to the engines once they are reset.
        """
        for member in self._order:
            self._turn(member, member.engine.reset)
            member.waiting.clear()
        self.clock.now = self.clock.iteration = self.time_ns = 0
        self.trajectory = []
        self._cache.clear()
        for engine, name, content in handed_in:
            self.put(engine, name, content)
        for member in self._order:
            if member.waiting:
                self._turn(member, lambda member=member: member.engine.set_datapacks(member.waiting))  # type: ignore[misc]
                member.waiting.clear()

    def seed(self, seed: int) -> None:
        """Seed the engines' simulators."""
        seeds = random.Random(seed)  # noqa: S311  nothing to do with secrets
        for member in self._order:
            number = 1 + seeds.getrandbits(31)
            self._turn(member, lambda member=member, number=number: member.engine.seed(number))  # type: ignore[misc]

    def engine(self, name: str) -> Engine[Any]:
        """An engine that takes part, by its name."""
        return self._members[name].engine

    def close(self) -> None:
        """Let go of what the loop itself holds; engines are shut down apart."""

    def step(self) -> bool:
        """Run all iterations in [t, t + timestep). Returns whether the status function said done in one."""
        self.time_ns += self._timestep_ns
        done = False
        while self.clock.now < self.time_ns:
            if self._iterate():
                done = True
        return done

    def _iterate(self) -> bool:
        clock = self.clock
        now = clock.now
        due, until_next = self._schedule.at(now)
        plan = self._plans.get(due) or self._make_plan(due)
        if now:
            for member in plan.to_complete:
                self._turn(member, member.engine.complete_step)
        iteration = clock.iteration
        for engine, wanted in plan.fetches:
            try:
                for name, entry in wanted:
                    entry.datapack = engine.get_datapack(name)
                    entry.iteration = iteration
                    entry.preprocessed = False
            except (Exception, SystemExit) as error:
                raise engine_error(engine, error) from error
        done = self._run_functions(plan)
        switch = self._surroundings.switch
        for engine, occupant, waiting in plan.to_start:
            switch(occupant)
            try:
                if waiting:
                    engine.set_datapacks(waiting)
                    waiting.clear()
                engine.start_step(engine.timestep_ns)
            except (Exception, SystemExit) as error:
                raise engine_error(engine, error) from error
        clock.iteration = iteration + 1
        clock.now = now + until_next
        return done

    def _turn(self, member: Member, call: Callable[[], None]) -> None:
        self._surroundings.switch(member.occupant)
        try:
            call()
        except (Exception, SystemExit) as error:
            raise engine_error(member.engine, error) from error

    # -- functions -----------------------------------------------------------------------------------------------------

    def _run_functions(self, plan: Plan) -> bool:
        if not (plan.preprocessing or plan.transceiver or self._status):
            return False
        self._surroundings.switch(self._occupant)
        for function in plan.preprocessing:
            for datapack in self._returned(function, self._call(function)):
                self._remember(function, datapack)
        for function in plan.transceiver:
            for datapack in self._returned(function, self._call(function)):
                self._send(function, datapack)
        return self._status is not None and self._run_status(self._status)

    def _call(self, function: Function) -> Any:
        arguments = {keyword: make() for keyword, make in self._arguments[function]}
        try:
            return function.call(**arguments)
        except (Exception, SystemExit) as error:
            raise function_error(function, error, self._folder) from error

    def _returned(self, function: Function, result: Any) -> list[DataPack] | tuple[DataPack, ...]:
        """The datapacks that a function returned, checked. Nothing at all counts as an empty list."""
        if result is None:
            return []
        if not isinstance(result, list | tuple):
            raise misuse(function, f"has to return a list of datapacks, it returned {_kind(result)}")
        for datapack in result:
            if not isinstance(datapack, DataPack):
                raise misuse(function, f"has to return datapacks, one of them is {_kind(datapack)}")
            if datapack.engine_name not in self._members:
                raise misuse(
                    function, f"returned datapack {datapack.name!r} for {self._no_engine(datapack.engine_name)}"
                )
        return result

    def _remember(self, function: Function, datapack: DataPack) -> None:
        if datapack.engine_name != function.engine:
            raise misuse(
                function,
                f"returned datapack {datapack.name!r} for engine {datapack.engine_name!r}; a preprocessing function"
                f" returns datapacks of its own engine, {function.engine!r}, only",
            )
        try:
            self._cache.remember(datapack.snapshot())
        except (TypeError, RuntimeError) as error:
            raise misuse(function, f"returned datapack {datapack.name!r}, which cannot be kept: {error}") from error

    def _send(self, function: Function, datapack: DataPack) -> None:
        try:
            self._members[datapack.engine_name].waiting[datapack.name] = datapack.sent()
        except (TypeError, RuntimeError) as error:
            raise misuse(function, f"returned datapack {datapack.name!r}, which cannot be sent: {error}") from error

    def _run_status(self, function: Function) -> bool:
        result = self._call(function)
        if not (isinstance(result, list | tuple) and len(result) == 2 and isinstance(result[1], list | tuple)):
            raise misuse(function, "has to return (done, [JsonRawData, ...])")
        done, trajectory = result
        for data in trajectory:
            if not isinstance(data, RawData):
                raise misuse(function, f"has to return a list of raw data, one of them is {_kind(data)}")
            try:
                self.trajectory.append(data.sent())
            except (TypeError, RuntimeError) as error:
                raise misuse(function, f"returned data that cannot be sent: {error}") from error
        return bool(done)

    # -- preparation ---------------------------------------------------------------------------------------------------

    def _check(self, function: Function) -> None:
        if function.kind != "status" and function.engine not in self._members:
            raise misuse(function, f"is linked to {self._no_engine(function.engine)}")
        for given in function.inputs:
            for datapack in given.datapacks:
                asks = f"asks for datapack {datapack.name!r} of "
                if datapack.engine_name not in self._members:
                    raise misuse(function, asks + self._no_engine(datapack.engine_name))
                if function.kind == "preprocessing" and datapack.engine_name != function.engine:
                    raise misuse(
                        function,
                        f"{asks}engine {datapack.engine_name!r}; a preprocessing function gets datapacks of its own"
                        f" engine, {function.engine!r}, only",
                    )
        misfit = function.misfit()
        if misfit:
            raise misuse(function, f"cannot be called with its inputs: {misfit}")

    def _no_engine(self, name: str) -> str:
        return f"engine {name!r}, which does not exist (engines are: {', '.join(self._members)})"

    def _make_plan(self, due: tuple[int, ...]) -> Plan:
        members = [self._order[index] for index in due if index < len(self._order)]

        def linked(kind: str) -> list[Function]:
            return [
                function
                for member in members
                for function in self._functions
                if function.kind == kind and function.engine == member.engine.name
            ]

        elsewhere = [member for member in members if type(member.engine).complete_step is not Engine.complete_step]
        here = [member for member in members if member not in elsewhere]
        plan = self._plans[due] = Plan(
            elsewhere,
            [
                (member.engine, self._wanted[member.engine.name])
                for member in members
                if self._wanted[member.engine.name]
            ],
            linked("preprocessing"),
            linked("transceiver"),
            elsewhere + here,  # those here step while the others do
        )
        return plan


def _kind(value: object) -> str:
    return type(value).__name__
