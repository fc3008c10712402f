"""The command `nrp doctor`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from nrp_cli.connection import Token, Url
from nrp_cli.terminal import FAILED, console, print_json, reports_errors


@reports_errors
def doctor(
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="The MQTT broker; NRP_MQTT_BROKER_ADDRESS when not given.", show_default=False
        ),
    ] = None,
    websocket: Annotated[
        str | None,
        typer.Option(metavar="WS_URL", help="Where the broker serves WebSocket.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="NRP_DATA_DIRECTORY",
            help="The services' data folder; ~/.local/share/nrp when not given.",
            show_default=False,
        ),
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(help="An experiment of yours to write a file into for a moment.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Examine this machine and what runs of the backend, and say what to do.

    Finds the stack of an `nrp up`; gateway, broker and storage that are elsewhere are named by options or by the NRP_*
    variables of the services. Exit status: 0 when there is no problem, else 1.
    """
    from nrp_cli.doctor import report  # all this takes a while to import, which other commands need not wait for
    from nrp_cli.doctor.examination import examine
    from nrp_cli.doctor.findings import Verdict, count
    from nrp_cli.doctor.targets import find_targets

    logging.getLogger("nrp_common").addHandler(logging.NullHandler())  # what is found says it better
    targets = find_targets(url, token, broker, websocket, data)
    with console.status("Examining"):
        areas = examine(targets, experiment)
    if as_json:
        print_json(report.as_json(areas))
    else:
        report.show(areas)
    if count(areas, Verdict.PROBLEM):
        raise typer.Exit(FAILED)
