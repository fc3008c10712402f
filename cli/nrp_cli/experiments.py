"""`nrp experiments`: the experiments in the storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nrp_cli.connection import Token, Url, connect
from nrp_cli.terminal import console, print_json, print_table, reports_errors
from nrp_common.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="List, import, export and remove experiments.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.command("ls")
@reports_errors
def ls(as_json: AsJson = False, url: Url = None, token: Token = None) -> None:
    """List the experiments."""
    with connect(url, token) as client:
        found = client.experiments()
    if as_json:
        print_json(found)
        return
    rows = []
    for experiment in found:
        description = (experiment.get("configuration") or {}).get("SimulationDescription")
        rows.append((experiment["uuid"], experiment["name"], description))
    print_table(["ID", "NAME", "DESCRIPTION"], rows)


@app.command("import")
@reports_errors
def import_(
    folder: Annotated[Path, typer.Argument(help="The experiment's folder.", exists=True, file_okay=False)],
    name: Annotated[str | None, typer.Option(help="Its id in the storage; the folder's name when not given.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Copy a folder into the storage; an experiment of the same name gets the new files on top."""
    with connect(url, token) as client:
        experiment = client.import_experiment(folder, name or folder.resolve().name)
    if as_json:
        print_json({"uuid": experiment})
    else:
        console.print(f"Imported as {experiment}", markup=False)


@app.command("export")
@reports_errors
def export(
    experiment: Annotated[str, typer.Argument(help="The experiment's id.")],
    destination: Annotated[Path | None, typer.Argument(help="The zip file; <id>.zip when not given.")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Write an experiment as a zip file."""
    path = destination or Path(f"{experiment}.zip")
    if path.exists():
        raise SettingsError(f"{path} is there already")
    with connect(url, token) as client:
        client.export_experiment(experiment, path)
    console.print(f"Wrote {path}", markup=False)


@app.command("rm")
@reports_errors
def rm(
    experiment: Annotated[str, typer.Argument(help="The experiment's id.")], url: Url = None, token: Token = None
) -> None:
    """Remove an experiment with its stored logs and results."""
    with connect(url, token) as client:
        client.delete_experiment(experiment)
    console.print(f"Removed {experiment}", markup=False)
