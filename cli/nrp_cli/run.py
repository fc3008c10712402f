"""`nrp run`: the main job in one go."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nrp_cli.connection import Token
from nrp_cli.progress import follow, real_time_factor
from nrp_cli.rest_client import CallRefused, RestClient, Simulation
from nrp_cli.signals import end_on_sigterm
from nrp_cli.simulations import RealTimeFactor
from nrp_cli.stack import Stack, StackOptions
from nrp_cli.terminal import (
    FAILED,
    INTERRUPTED,
    complain,
    complain_with_log,
    console,
    print_json,
    reports_errors,
    seconds,
)
from nrp_cli.up import checked_broker
from nrp_common.errors import SettingsError

STATUS_INTERVAL_S = "0.1"
"""Of a private stack: somebody watches the bar."""

LOG_LINES_SHOWN = 12


@reports_errors
def run(
    folder: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT_FOLDER", help="The experiment.", exists=True, file_okay=False)
    ],
    timeout: Annotated[
        float | None,
        typer.Option(min=0.0, help="Real seconds after which the run is stopped and counts as failed."),
    ] = None,
    configuration: Annotated[str | None, typer.Option("--config", help="Another simulation_config.json.")] = None,
    main_script: Annotated[str | None, typer.Option("--script", help="Another main_script.py.")] = None,
    realtime_factor: RealTimeFactor = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where logs and results go; the experiment's folder when not given.", file_okay=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The experiment's id on the server; the folder's name when not given.")
    ] = None,
    broker: Annotated[
        str, typer.Option(metavar="HOST:PORT|mosquitto|embedded", help="Of the private stack, as for `nrp up`.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print each change of the record as JSON.")] = False,
    url: Annotated[
        str | None,
        typer.Option(envvar="NRP_URL", help="Use this gateway in place of a private stack.", show_default=False),
    ] = None,
    token: Token = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run it in this process and in its own folder, without broker and gateway.")
    ] = False,
) -> None:
    """Run one experiment from beginning to end.

    Exit status: 0 completed, 1 failed, 2 bad usage, 130 interrupted (then stopped, its logs stored).
    """
    end_on_sigterm()
    folder = folder.resolve()
    if local:
        # The services have the cores, this process does not need them else.
        from nrp_cli.local import run_locally
        from nrp_simserver.processes import leave

        leave(run_locally(folder, configuration, main_script, realtime_factor, timeout, as_json))
    target = _writable(output or folder)
    with _gateway(url, token, checked_broker(broker)) as client:
        experiment = client.import_experiment(folder, name or folder.name)
        simulation = client.launch(experiment, configuration, main_script, realtime_factor)
        simulation_id = simulation["simulationID"]
        status = 0
        try:
            last = _run(client, simulation, timeout, as_json)
            if last["state"] == "failed":
                complain(last.get("error") or "The simulation failed")
                status = FAILED
            elif last["state"] == "stopped":
                complain("Somebody else stopped the simulation")
                status = FAILED
        except TimeoutError:
            complain(f"Not completed after {timeout:g} s of real time; stopping it")
            status = FAILED
        except KeyboardInterrupt:
            complain("Interrupted; stopping the simulation")
            status = INTERRUPTED
        _stop(client, simulation_id)
        last = client.simulation(simulation_id)
        if as_json:
            print_json(last)
        _report(client, last, target, quiet=as_json)
    if status:
        raise typer.Exit(status)


@contextmanager
def _gateway(url: str | None, token: str | None, broker: str) -> Iterator[RestClient]:
    if url is not None:
        with RestClient(url, token) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="nrp_run_") as data:
        environment = {"NRP_STATUS_INTERVAL_S": STATUS_INTERVAL_S, "NRP_AUTHENTICATION": "off"}
        # Port 0: any free one, so that private stacks never get in the way of anybody.
        options = StackOptions(Path(data), port=0, broker=broker, environment=environment)
        with Stack(options) as stack, RestClient(stack.url) as client:
            yield client


def _run(client: RestClient, simulation: Simulation, timeout: float | None, as_json: bool) -> Simulation:
    deadline = None if timeout is None else time.monotonic() + timeout
    simulation_id = simulation["simulationID"]
    report = print_json if as_json else None
    if simulation["state"] == "created":  # a large simulator takes longer than the gateway waits
        simulation = follow(
            client, simulation_id, until=("paused", "stopped", "failed"), deadline=deadline, report=report
        )
    if simulation["state"] != "paused":
        return simulation
    client.set_state(simulation_id, "started")
    return follow(client, simulation_id, until=("completed", "stopped", "failed"), deadline=deadline, report=report)


def _stop(client: RestClient, simulation_id: int) -> None:
    try:
        client.set_state(simulation_id, "stopped")
    except CallRefused:
        if client.simulation(simulation_id)["state"] not in ("stopped", "failed"):
            raise


def _report(client: RestClient, simulation: Simulation, target: Path, *, quiet: bool) -> None:
    simulation_id = simulation["simulationID"]
    kept = {kind: client.download(simulation_id, kind, target) for kind in ("logs", "results")}
    if quiet:
        return
    if simulation["state"] == "failed" and kept["logs"] is not None:
        complain_with_log(_end_of_log(kept["logs"], simulation_id))
    console.print(
        f"{seconds(simulation.get('simulationTime'))} simulated in {seconds(simulation.get('realTime'))} "
        f"({real_time_factor(simulation)})"
    )
    for kind, path in kept.items():
        if path is not None:
            console.print(f"{kind.capitalize()}: {path}", markup=False)


def _end_of_log(archive: Path, simulation_id: int) -> list[str]:
    """The last lines of the simulation's log: mostly the traceback."""
    try:
        log = zipfile.ZipFile(archive).read(f"simulation_{simulation_id}.log").decode(errors="replace")
    except KeyError:  # it failed before there was anything to log
        return []
    return log.splitlines()[-LOG_LINES_SHOWN:]


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SettingsError(
            f"Cannot write logs and results to {folder}: {error.strerror}; name another --output"
        ) from error
