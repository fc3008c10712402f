"""The command `nrp`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from nrp_cli import experiments, services, simulations
from nrp_cli.broker_access import command as broker_access
from nrp_cli.doctor.command import doctor
from nrp_cli.run import run
from nrp_cli.terminal import console, reports_errors
from nrp_cli.up import up

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The Neurorobotics Platform's backend: run experiments that couple a simulated body and a simulated brain.",
)
app.command("up")(up)
app.command("run")(run)
app.command("doctor")(doctor)
app.add_typer(broker_access.app, name="broker-access")
app.add_typer(experiments.app, name="experiments")
app.add_typer(simulations.app, name="simulations")


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options that stand before any command."""
    if show_version:
        console.print(version("nrp-backend"))
        raise typer.Exit


@app.command("gateway")
@reports_errors
def gateway() -> None:
    """Run the REST gateway alone; settings come from NRP_* variables."""
    services.gateway()


@app.command("launcher")
@reports_errors
def launcher() -> None:
    """Run the launcher of simulation servers alone; settings come from NRP_* variables."""
    services.launcher()


if __name__ == "__main__":
    app()
