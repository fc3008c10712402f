"""Following a simulation live: a bar on a terminal, a line a change of state elsewhere, JSON lines for scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

from rich.progress import BarColumn, Progress, TextColumn

from nrp_cli.rest_client import Simulation
from nrp_cli.terminal import coloured_state, console, seconds

POLL_S = 0.1
"""How often the gateway is asked; it answers from memory."""

Report = Callable[[Simulation], None]


class Source(Protocol):
    """Where the record of a simulation comes from: a `RestClient`, mostly."""

    def simulation(self, simulation_id: int) -> Simulation:
        """The record as it is now."""


def follow(
    source: Source,
    simulation_id: int,
    *,
    until: Collection[str],
    deadline: float | None = None,
    report: Report | None = None,
) -> Simulation:
    """Show a simulation until it is in one of the states `until`.

    Args:
        source: to ask for it.
        simulation_id: which one.
        until: the states that end it.
        deadline: on the monotonic clock, None for none.
        report: called with each record that differs from the one before, in place of showing it.

    Returns:
        The last record.

    Raises:
        TimeoutError: the deadline came first.
    """
    if report is not None:
        return _last(source, simulation_id, until, deadline, report)
    if not console.is_terminal:
        return _last(source, simulation_id, until, deadline, _line_on_change())
    columns = (
        TextColumn("simulation {task.fields[number]}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[simulated]} simulated in {task.fields[real]}, {task.fields[factor]}"),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(
            "", total=None, number=simulation_id, simulated="-", real="-", factor="-", state=coloured_state("created")
        )

        def show(simulation: Simulation) -> None:
            simulated, left = simulation.get("simulationTime") or 0.0, simulation.get("simulationTimeLeft") or 0.0
            bar.update(
                row,
                # Without a time-out nobody knows the end: the bar then fills when it has come.
                total=simulated + left if left else (simulated or 1.0) if simulation["state"] in until else None,
                completed=simulated,
                simulated=seconds(simulated),
                real=seconds(simulation.get("realTime")),
                factor=real_time_factor(simulation),
                state=coloured_state(simulation["state"]),
            )

        return _last(source, simulation_id, until, deadline, show)


def real_time_factor(simulation: Simulation) -> str:
    """Simulated over real time, for people."""
    real = simulation.get("realTime") or 0.0
    return f"{(simulation.get('simulationTime') or 0.0) / real:.1f}x" if real > 0.0 else "-"


def _line_on_change() -> Report:
    states: list[str] = []

    def show(simulation: Simulation) -> None:
        if states[-1:] == [simulation["state"]]:
            return
        states.append(simulation["state"])
        console.print(
            f"simulation {simulation['simulationID']} {simulation['state']}: "
            f"{seconds(simulation.get('simulationTime'))} simulated in {seconds(simulation.get('realTime'))}"
        )

    return show


def _last(
    source: Source, simulation_id: int, until: Collection[str], deadline: float | None, report: Report
) -> Simulation:
    previous: Simulation | None = None
    while True:
        simulation = source.simulation(simulation_id)
        if simulation != previous:
            report(simulation)
        if simulation["state"] in until:
            return simulation
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
        previous = simulation
        time.sleep(POLL_S)
