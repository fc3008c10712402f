"""What a launcher counts of its simulations: exactly once, whatever they do and however they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, Metric

from nrp_common.bus import Bus, BusCounts
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_simserver.launcher.metrics import PHASES, LauncherMetrics, Uploads
from nrp_simserver.launcher.spool import Spool
from nrp_simserver.simulation_folder import Journal

STARTED = SimulationState.STARTED


@dataclass
class FakeConnection:
    """A bus that nothing befell."""

    is_connected: bool = True
    unhandled: int = 0
    counts: BusCounts = field(default_factory=BusCounts)


@dataclass
class FakeSimulation:
    """A simulation and what its server noted down."""

    incarnation: str = "i"
    is_running: bool = True
    journal: Journal = field(default_factory=Journal)

    def read_journal(self) -> Journal:
        return self.journal

    def at(self, steps: int, real_s: float, state: SimulationState = STARTED, *, reconnects: int = 0) -> None:
        """It has taken steps of a hundredth of a second."""
        bus = BusCounts(reconnects=reconnects)
        self.journal = Journal(state=state, steps=steps, simulation_time=steps / 100, real_time=real_s, bus=bus)


class Counted:
    """A launcher's figures, and the simulations that they are of."""

    def __init__(self, spool: Spool) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.simulations: list[FakeSimulation] = []
        self.metrics = LauncherMetrics(
            self.registry, cast(Bus, FakeConnection()), 8, lambda: list(self.simulations), spool, lambda: 3
        )

    def launch(self, incarnation: str = "i") -> FakeSimulation:
        simulation = FakeSimulation(incarnation)
        self.simulations.append(simulation)
        self.metrics.launch(incarnation)
        return simulation

    def end(self, simulation: FakeSimulation, event: SimulationEvent = SimulationEvent.STOPPED) -> None:
        simulation.is_running = False
        self.metrics.end(simulation, event)

    def look(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample, as a scrape sees it."""
        families: Iterator[Metric] = iter(self.registry.collect())
        return {
            (each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples
        }

    def figure(self, name: str, **labels: str) -> float:
        return self.look().get((name, frozenset(labels.items())), 0.0)


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(Spool(tmp_path / "spool", lambda _: pytest.fail("nothing is stored"), lambda *_: None))


def test_steps_of_all_simulations_are_summed_up_and_grow(counted: Counted) -> None:
    one, other = counted.launch("one"), counted.launch("other")
    one.at(100, 1.0)
    other.at(10, 2.0)
    assert counted.figure("nrp_run_loop_steps_total") == 110
    one.at(150, 1.5)
    assert counted.figure("nrp_run_loop_steps_total") == 160
    assert counted.figure("nrp_simulated_seconds_total") == pytest.approx(1.6)
    assert counted.figure("nrp_started_seconds_total") == 3.5


def test_a_reset_takes_nothing_away(counted: Counted) -> None:
    simulation = counted.launch()
    simulation.at(100, 1.0)
    counted.look()
    simulation.at(5, 0.1)
    assert counted.figure("nrp_run_loop_steps_total") == 105
    assert counted.figure("nrp_started_seconds_total") == pytest.approx(1.1)


def test_what_a_simulation_did_after_the_last_look_counts_once_it_has_ended(counted: Counted) -> None:
    simulation = counted.launch()
    simulation.at(100, 1.0)
    counted.look()
    simulation.at(180, 2.0)
    counted.end(simulation)
    assert counted.figure("nrp_run_loop_steps_total") == 180
    assert counted.figure("nrp_run_loop_steps_total") == 180
    assert counted.figure("nrp_launcher_ended_total", state="stopped") == 1


def test_a_simulation_that_ran_and_ended_between_two_looks_counts(counted: Counted) -> None:
    simulation = counted.launch()
    simulation.at(70, 1.0)
    counted.end(simulation, SimulationEvent.FAILED)
    assert counted.figure("nrp_run_loop_steps_total") == 70
    assert counted.figure("nrp_launcher_ended_total", state="failed") == 1


def test_a_simulation_of_an_earlier_launcher_counts_from_now_on(counted: Counted) -> None:
    adopted = FakeSimulation("earlier")
    adopted.at(10_000, 100.0)
    counted.simulations.append(adopted)
    assert counted.figure("nrp_run_loop_steps_total") == 0
    adopted.at(10_020, 100.2)
    assert counted.figure("nrp_run_loop_steps_total") == 20


def test_states_are_of_what_runs(counted: Counted) -> None:
    counted.launch("created")
    counted.launch("started").at(1, 1.0)
    counted.launch("paused").at(1, 1.0, SimulationState.PAUSED)
    counted.end(counted.launch("ended"))
    states = {state: counted.figure("nrp_launcher_simulations", state=state) for state in ("created", "started")}
    assert states == {"created": 1, "started": 1}
    assert counted.figure("nrp_launcher_simulations", state="paused") == 1
    assert counted.figure("nrp_launcher_launches_total") == 4


def test_the_pace_is_told_of_what_is_started_between_two_looks(counted: Counted) -> None:
    slow, quick, paused = counted.launch("slow"), counted.launch("quick"), counted.launch("paused")
    slow.at(100, 1.0)
    quick.at(100, 1.0)
    paused.at(100, 1.0, SimulationState.PAUSED)
    assert counted.figure("nrp_simulation_real_time_factor", statistic="median") == 0  # one look tells no pace
    slow.at(150, 2.0)
    quick.at(500, 2.0)
    factors = {
        each: counted.figure("nrp_simulation_real_time_factor", statistic=each)
        for each in ("lowest", "median", "highest")
    }
    assert factors == {"lowest": 0.5, "median": 2.25, "highest": 4.0}
    assert counted.figure("nrp_simulation_run_loop_rate", statistic="highest") == 400


def test_two_looks_in_a_row_tell_the_same_pace(counted: Counted) -> None:
    simulation = counted.launch()
    simulation.at(100, 1.0)
    counted.look()
    simulation.at(300, 2.0)
    assert [counted.figure("nrp_simulation_real_time_factor", statistic="median") for _ in range(2)] == [2.0, 2.0]


def test_a_pause_ends_the_pace_and_a_reset_begins_a_new_one(counted: Counted) -> None:
    simulation = counted.launch()
    for steps, real_s in ((100, 1.0), (300, 2.0)):
        simulation.at(steps, real_s)
        counted.look()
    simulation.at(10, 2.6)  # the script has reset the core, and real time goes on
    assert counted.figure("nrp_simulation_real_time_factor", statistic="lowest") == 2.0
    simulation.at(110, 3.6)
    assert counted.figure("nrp_simulation_real_time_factor", statistic="lowest") == pytest.approx(1.0)
    simulation.at(110, 3.6, SimulationState.PAUSED)
    assert ("nrp_simulation_real_time_factor", frozenset({("statistic", "lowest")})) not in counted.look()


def test_what_befell_the_servers_connections_is_told_beside_the_launchers_own(counted: Counted) -> None:
    counted.launch("one").at(1, 1.0, reconnects=2)
    ended = counted.launch("other")
    ended.at(1, 1.0, reconnects=1)
    counted.end(ended)
    assert counted.figure("nrp_bus_reconnects_total", part="simulation_server") == 3
    assert counted.figure("nrp_bus_reconnects_total", part="launcher") == 0
    assert counted.figure("nrp_bus_connected") == 1


@pytest.mark.parametrize(
    "said",
    [(*PHASES, "initialise"), ("clone", "initialise", "spawn")],
    ids=["again after a reconnect", "by the server before its spawner"],
)
def test_each_phase_of_a_launch_is_counted_once(counted: Counted, said: tuple[str, ...]) -> None:
    phases = counted.metrics.launch("i")
    for phase in said:
        phases.over(phase)
    counts = [counted.figure("nrp_launch_phase_duration_seconds_count", phase=phase) for phase in PHASES]
    assert counts == [1, 1, 1]


def test_uploads_are_counted_by_what_came_of_them() -> None:
    registry = CollectorRegistry()
    uploads = Uploads(registry)

    def fail() -> None:
        with uploads.one():
            raise OSError

    with uploads.one():
        pass
    with pytest.raises(OSError):
        fail()
    for outcome in ("stored", "failed"):
        name = "nrp_storage_upload_duration_seconds_count"
        assert registry.get_sample_value(name, {"outcome": outcome}) == 1
