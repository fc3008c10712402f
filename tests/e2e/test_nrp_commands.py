"""`nrp experiments` and `nrp simulations`: the REST API for hands and for scripts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from nrp_cli.main import app
from tests.e2e.conftest import EXAMPLES, RunningStack
from tests.e2e.experiments import experiment


def call(stack: RunningStack, *arguments: str) -> Result:
    """The command, without the second that a new interpreter takes to start."""
    return CliRunner().invoke(app, arguments, env={"NRP_URL": stack.url})


def said(stack: RunningStack, *arguments: str) -> str:
    """What a command that succeeds prints."""
    ended = call(stack, *arguments)
    assert ended.exit_code == 0, ended.stderr
    return ended.stdout


def answered(stack: RunningStack, *arguments: str) -> Any:
    """What a command prints for scripts."""
    return json.loads(said(stack, *arguments, "--json"))


def refused(stack: RunningStack, *arguments: str) -> str:
    """What a command that fails says."""
    ended = call(stack, *arguments)
    assert ended.exit_code == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_life_by_hand(stack: RunningStack) -> None:
    number = str(answered(stack, "simulations", "launch", experiment(stack))["simulationID"])
    assert said(stack, "simulations", "step", number, "3") == f"Simulation {number} is paused\n"
    assert answered(stack, "simulations", "show", number)["simulationTime"] == 0.03
    assert said(stack, "simulations", "start", number) == f"Simulation {number} is started\n"
    assert answered(stack, "simulations", "pause", number) == {"simulationID": int(number), "state": "paused"}
    assert said(stack, "simulations", "reset", number) == f"Simulation {number} is paused\n"
    assert "simulationTime           0.0" in said(stack, "simulations", "show", number)
    assert said(stack, "simulations", "stop", number) == f"Simulation {number} is stopped\n"
    assert "finalized" in refused(stack, "simulations", "start", number)
    assert said(stack, "simulations", "rm", number) == f"Simulation {number} is gone\n"
    assert "was not found" in refused(stack, "simulations", "show", number)


def test_the_list_is_filtered_and_shown_as_a_table(stack: RunningStack) -> None:
    name = experiment(stack)
    number = answered(stack, "simulations", "launch", name)["simulationID"]
    (listed,) = answered(stack, "simulations", "ls", "--experiment", name, "--state", "paused")
    assert listed["simulationID"] == number
    assert answered(stack, "simulations", "ls", "--experiment", name, "--state", "stopped") == []
    header, row = said(stack, "simulations", "ls", "--experiment", name).splitlines()
    assert header.split() == ["ID", "STATE", "EXPERIMENT", "SIMULATED", "REAL", "OWNER", "CREATED"]
    assert row.split()[:3] == [str(number), "paused", name]
    said(stack, "simulations", "stop", str(number))


def test_a_launch_that_fails_exits_with_1_and_says_why(stack: RunningStack) -> None:
    assert "no_such_experiment" in refused(stack, "simulations", "launch", "no_such_experiment")


def test_watch_follows_to_the_end_and_exits_with_1_when_it_failed(stack: RunningStack) -> None:
    number = str(answered(stack, "simulations", "launch", experiment(stack, "nrp.run_loop()\n1 / 0\n"))["simulationID"])
    said(stack, "simulations", "start", number)
    watched = call(stack, "simulations", "watch", number, "--json")
    assert watched.exit_code == 1
    assert json.loads(watched.stdout.splitlines()[-1])["state"] == "failed"


def test_an_experiment_comes_back_from_the_storage_as_it_went_in(stack: RunningStack, tmp_path: Path) -> None:
    assert said(stack, "experiments", "import", str(EXAMPLES / "three_rates"), "--name", "round trip")
    assert "round trip" in [each["uuid"] for each in answered(stack, "experiments", "ls")]
    target = tmp_path / "exported.zip"
    said(stack, "experiments", "export", "round trip", str(target))
    archive = zipfile.ZipFile(target)
    for path in (EXAMPLES / "three_rates").glob("*.py"):
        assert archive.read(f"round trip/{path.name}") == path.read_bytes()
    assert said(stack, "experiments", "rm", "round trip") == "Removed round trip\n"
    assert "round trip" not in said(stack, "experiments", "ls")
    assert "round trip" in refused(stack, "experiments", "rm", "round trip")


def test_an_import_leaves_earlier_logs_behind(stack: RunningStack, tmp_path: Path) -> None:
    for name in ("main_script.py", "2026-01-01_00-00-00_simulation_1.log.zip", "old.log"):
        (tmp_path / name).write_text("")
    said(stack, "experiments", "import", str(tmp_path), "--name", "imported")
    assert [each["name"] for each in stack.get("/storage/imported").json()] == ["main_script.py"]


def test_a_server_that_is_not_there_is_named(stack: RunningStack) -> None:
    complaint = refused(stack, "simulations", "ls", "--url", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1" in complaint
    assert "nrp up" in complaint
