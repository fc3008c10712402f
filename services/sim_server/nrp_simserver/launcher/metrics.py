"""What a launcher counts for Prometheus, for itself and for its simulation servers. `docs/metrics.md` explains it all.

A simulation server serves no figures and does nothing for them while it steps. How far it got is in its journal, which
it writes once a second anyway; the launcher reads the journals when somebody asks.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from nrp_common.bus import Bus, BusCounts
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.metrics import LAUNCH_BUCKETS_S, bus_figures
from nrp_simserver.launcher.spool import Spool
from nrp_simserver.simulation_folder import Journal

UPLOAD_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""From some logs on the same machine to gigabytes of results over a network, in seconds."""

PACE_OVER_S: Final = 0.5
"""Real seconds that a simulation has to run between two looks for its pace to be told from them."""

SERVERS: Final = "simulation_server"
"""The part of the bus's figures that all simulation servers are together."""

PHASES: Final = ("clone", "spawn", "initialise")
"""Of a launch on its launcher, in this order."""

UNFINISHED: Final = [state for state in SimulationState if not state.is_final]


class Simulation(Protocol):
    """What is asked of a `SimulationServerInstance`."""

    @property
    def incarnation(self) -> str:
        """Of its simulation server."""

    @property
    def is_running(self) -> bool:
        """Whether anything of it runs."""

    def read_journal(self) -> Journal:
        """How far it got."""


class LaunchPhases:
    """The phases of one launch, each counted when it is over."""

    def __init__(self, durations: Histogram) -> None:
        self._durations = durations
        self._since = time.monotonic()
        self._left = list(PHASES)

    def over(self, phase: str) -> None:
        """`phase` is over, and those before it are. Does nothing when that was said already."""
        while phase in self._left:
            now = time.monotonic()
            self._durations.labels(self._left.pop(0)).observe(now - self._since)
            self._since = now


class Uploads:
    """The figures of archives on their way from the spool into the Storage Server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._durations = Histogram(
            "nrp_storage_upload_duration_seconds",
            "Archives on their way from the spool into the Storage Server, by what came of it.",
            ["outcome"],
            buckets=UPLOAD_BUCKETS_S,
            registry=registry,
        )

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count what the block takes as the upload of an archive."""
        began = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "stored"
        finally:
            self._durations.labels(outcome).observe(time.monotonic() - began)


class LauncherMetrics:
    """The figures of one launcher. Usable from several threads.

    Args:
        registry: where they are added.
        bus: the launcher's connection.
        capacity: how many simulations it takes at once.
        simulations: all that it has, ended ones included.
        spool: the archives that wait for the Storage Server.
        idle_servers: how many servers wait for a simulation.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        bus: Bus,
        capacity: int,
        simulations: Callable[[], Collection[Simulation]],
        spool: Spool,
        idle_servers: Callable[[], int],
    ) -> None:
        self._launches = Counter("nrp_launcher_launches", "Launches that were taken.", registry=registry)
        self._launch_phases = Histogram(
            "nrp_launch_phase_duration_seconds",
            "Phases of a launch, those that this process sees.",
            ["phase"],
            buckets=LAUNCH_BUCKETS_S,
            registry=registry,
        )
        self._ended = Counter(
            "nrp_launcher_ended", "Simulations that ended, by their final state.", ["state"], registry=registry
        )
        idle = Gauge(
            "nrp_launcher_idle_servers", "Simulation servers that are ready and have no simulation.", registry=registry
        )
        idle.set_function(idle_servers)
        self._fleet = _Fleet(bus, capacity, simulations, spool)
        registry.register(self._fleet)

    def launch(self, incarnation: str) -> LaunchPhases:
        """Count a launch that was taken, and its phases from now on."""
        self._launches.inc()
        self._fleet.follow(incarnation)
        return LaunchPhases(self._launch_phases)

    def end(self, simulation: Simulation, event: SimulationEvent) -> None:
        """Count a simulation of which nothing runs any more, `event` being how it ended."""
        self._ended.labels(event.target.value).inc()
        self._fleet.note_end(simulation)


class _Amounts(NamedTuple):
    """What a simulation server has done so far."""

    steps: float = 0
    simulated_s: float = 0
    started_s: float = 0
    reconnects: float = 0
    dropped_outgoing: float = 0
    dropped_incoming: float = 0

    @classmethod
    def of(cls, journal: Journal) -> Self:
        return cls(
            journal.steps,
            journal.simulation_time,
            journal.real_time,
            journal.bus.reconnects,
            journal.bus.dropped_outgoing,
            journal.bus.dropped_incoming,
        )

    @property
    def of_bus(self) -> BusCounts:
        return BusCounts(int(self.reconnects), int(self.dropped_outgoing), int(self.dropped_incoming))

    def since(self, before: _Amounts) -> _Amounts:
        """How much was added, if what has become less began again: times and steps do with a reset."""
        return _Amounts(*(now - then if now >= then else now for now, then in zip(self, before, strict=True)))

    def plus(self, more: _Amounts) -> _Amounts:
        return _Amounts(*(one + other for one, other in zip(self, more, strict=True)))


class _Pace(NamedTuple):
    """How fast a simulation ran between two looks at it."""

    real_time_factor: float
    steps_a_second: float


class _Fleet(Collector):
    """All simulations of a launcher, summed up from their journals."""

    def __init__(
        self, bus: Bus, capacity: int, simulations: Callable[[], Collection[Simulation]], spool: Spool
    ) -> None:
        self._bus = bus
        self._capacity = capacity
        self._simulations = simulations
        self._spool = spool
        self._lock = threading.Lock()  # guards the four below, and that no amount is added twice
        self._seen: dict[str, _Amounts] = {}
        self._total = _Amounts()
        self._paced_from: dict[str, _Amounts] = {}
        self._paces: dict[str, _Pace] = {}

    def follow(self, incarnation: str) -> None:
        """A simulation server begins that has done nothing yet. Others are counted from the first look at them on."""
        with self._lock:
            self._seen[incarnation] = _Amounts()

    def note_end(self, simulation: Simulation) -> None:
        """Add what a simulation did last. It runs no more, so nobody adds to it afterwards."""
        with self._lock:
            self._add(simulation.incarnation, _Amounts.of(simulation.read_journal()))
            for known in (self._seen, self._paced_from, self._paces):
                known.pop(simulation.incarnation, None)

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        states = dict.fromkeys(UNFINISHED, 0)
        with self._lock:
            for simulation in self._simulations():
                if simulation.is_running:
                    journal = simulation.read_journal()
                    states[journal.state] += 1
                    self._add(simulation.incarnation, _Amounts.of(journal))
                    self._pace(simulation.incarnation, journal)
            total, paces = self._total, list(self._paces.values())
        yield from bus_figures(self._bus, {"launcher": self._bus.counts, SERVERS: total.of_bus})
        yield GaugeMetricFamily(
            "nrp_launcher_capacity", "Simulations that this launcher takes at once.", self._capacity
        )
        by_state = GaugeMetricFamily("nrp_launcher_simulations", "Simulations that it has now.", labels=["state"])
        for state, count in states.items():
            by_state.add_metric([state.value], count)
        yield by_state
        yield from _totals(total)
        yield from _spread(
            "nrp_simulation_real_time_factor",
            "Simulated seconds a real second, of the simulations that are started.",
            [pace.real_time_factor for pace in paces],
        )
        yield from _spread(
            "nrp_simulation_run_loop_rate",
            "Smallest timesteps a real second, of the simulations that are started.",
            [pace.steps_a_second for pace in paces],
        )
        waiting, size = self._spool.waiting()
        yield GaugeMetricFamily(
            "nrp_spool_simulations", "Simulations whose archives wait for the Storage Server.", waiting
        )
        yield GaugeMetricFamily("nrp_spool_bytes", "What these archives take on the disk.", size)

    def _add(self, incarnation: str, now: _Amounts) -> None:
        self._total = self._total.plus(now.since(self._seen.get(incarnation, now)))
        self._seen[incarnation] = now

    def _pace(self, incarnation: str, journal: Journal) -> None:
        now = _Amounts.of(journal)
        before = self._paced_from.get(incarnation)
        if journal.state is not SimulationState.STARTED:
            self._paced_from.pop(incarnation, None)
            self._paces.pop(incarnation, None)
        elif before is None or now.started_s < before.started_s or now.simulated_s < before.simulated_s:
            self._paced_from[incarnation] = now
        elif (real_s := now.started_s - before.started_s) >= PACE_OVER_S:
            self._paced_from[incarnation] = now
            self._paces[incarnation] = _Pace(
                (now.simulated_s - before.simulated_s) / real_s, (now.steps - before.steps) / real_s
            )


def _totals(total: _Amounts) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "nrp_run_loop_steps", "Smallest timesteps that the simulations took, all together.", total.steps
    )
    yield CounterMetricFamily(
        "nrp_simulated_seconds", "Simulated seconds of all simulations together.", total.simulated_s
    )
    yield CounterMetricFamily(
        "nrp_started_seconds", "Real seconds that simulations were started, all together.", total.started_s
    )


def _spread(name: str, meaning: str, values: Collection[float]) -> Iterator[Metric]:
    family = GaugeMetricFamily(name, meaning, labels=["statistic"])
    if values:
        family.add_metric(["lowest"], min(values))
        family.add_metric(["median"], statistics.median(values))
        family.add_metric(["highest"], max(values))
    yield family
