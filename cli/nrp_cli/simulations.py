"""`nrp simulations`: the REST API of simulations, for hands."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from nrp_cli.connection import Token, Url, connect
from nrp_cli.progress import follow
from nrp_cli.rest_client import Simulation
from nrp_cli.terminal import FAILED, coloured_state, complain, console, print_json, print_table, reports_errors, seconds

app = typer.Typer(no_args_is_help=True, help="List, watch and command simulations.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Id = Annotated[int, typer.Argument(help="The simulation's number.", min=0)]


def _finite(factor: float | None) -> float | None:
    if factor is not None and not math.isfinite(factor):
        raise typer.BadParameter("has to be a finite number; 0 for no limit")
    return factor


RealTimeFactor = Annotated[
    float | None,
    typer.Option(
        "--realtime-factor",
        min=0.0,
        callback=_finite,
        help="The most simulated seconds in a real second: 1 holds it to real time, 0 is no limit; in place of what the"
        " configuration says.",
        show_default=False,
    ),
]


@app.command("ls")
@reports_errors
def ls(
    state: Annotated[list[str] | None, typer.Option(help="Only those in this state; may be repeated.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Only those of this experiment.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """List the simulations."""
    with connect(url, token) as client:
        found = client.simulations(state=state, owner=owner, experimentID=experiment)
    if as_json:
        print_json(found)
        return
    print_table(
        ["ID", "STATE", "EXPERIMENT", "SIMULATED", "REAL", "OWNER", "CREATED"],
        [
            (
                simulation["simulationID"],
                coloured_state(simulation["state"]),
                simulation["experimentID"],
                seconds(simulation.get("simulationTime")),
                seconds(simulation.get("realTime")),
                simulation["owner"],
                simulation["creationDate"][:19].replace("T", " "),
            )
            for simulation in found
        ],
    )


@app.command("launch")
@reports_errors
def launch(
    experiment: Annotated[str, typer.Argument(help="The experiment's id.")],
    configuration: Annotated[str | None, typer.Option("--config", help="Another simulation_config.json.")] = None,
    main_script: Annotated[str | None, typer.Option("--script", help="Another main_script.py.")] = None,
    realtime_factor: RealTimeFactor = None,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Launch an experiment; it is paused when it is ready to start."""
    with connect(url, token) as client:
        simulation = client.launch(experiment, configuration, main_script, realtime_factor)
    if as_json:
        print_json(simulation)
    else:
        console.print(f"Simulation {simulation['simulationID']} is {coloured_state(simulation['state'])}")
    if simulation["state"] == "failed":
        complain(simulation.get("error") or "The launch failed")
        raise typer.Exit(FAILED)


@app.command("show")
@reports_errors
def show(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Show one simulation with all its fields."""
    with connect(url, token) as client:
        _print_simulation(client.simulation(simulation_id), as_json)


def _print_simulation(simulation: Simulation, as_json: bool) -> None:
    if as_json:
        print_json(simulation)
        return
    width = max(map(len, simulation))
    for key, value in simulation.items():
        shown = coloured_state(value) if key == "state" else None
        console.print(f"{key:{width}}  ", end="")
        console.print(shown or ("-" if value is None else str(value)), markup=shown is not None)


def _command(simulation_id: int, reached: str, as_json: bool) -> None:
    if as_json:
        print_json({"simulationID": simulation_id, "state": reached})
    else:
        console.print(f"Simulation {simulation_id} is {coloured_state(reached)}")


@app.command("start")
@reports_errors
def start(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Start a paused simulation."""
    with connect(url, token) as client:
        _command(simulation_id, client.set_state(simulation_id, "started"), as_json)


@app.command("pause")
@reports_errors
def pause(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Pause a started simulation."""
    with connect(url, token) as client:
        _command(simulation_id, client.set_state(simulation_id, "paused"), as_json)


@app.command("stop")
@reports_errors
def stop(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Stop a simulation for good; its logs are stored."""
    with connect(url, token) as client:
        _command(simulation_id, client.set_state(simulation_id, "stopped"), as_json)


@app.command("reset")
@reports_errors
def reset(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Bring a simulation back to its beginning, paused."""
    with connect(url, token) as client:
        _command(simulation_id, client.reset(simulation_id), as_json)


@app.command("step")
@reports_errors
def step(
    simulation_id: Id,
    iterations: Annotated[int, typer.Argument(help="How many of the smallest timesteps.", min=1)] = 1,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Advance a paused simulation by some steps."""
    with connect(url, token) as client:
        _command(simulation_id, client.step(simulation_id, iterations), as_json)


@app.command("rm")
@reports_errors
def rm(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Remove a simulation; a running one is stopped first. Its logs stay in the experiment."""
    with connect(url, token) as client:
        client.delete(simulation_id)
    if as_json:
        print_json({"simulationID": simulation_id, "state": None})
    else:
        console.print(f"Simulation {simulation_id} is gone")


@app.command("watch")
@reports_errors
def watch(simulation_id: Id, as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """Follow a simulation until it has ended; exits with 1 when it failed."""
    with connect(url, token) as client:
        report: Any = print_json if as_json else None
        last = follow(client, simulation_id, until=("stopped", "failed"), report=report)
    if last["state"] == "failed":
        raise typer.Exit(FAILED)
