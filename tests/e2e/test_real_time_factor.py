"""A simulation that is held to a real-time factor obeys as any other one, and is never faster than that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import EXAMPLES, RunningStack
from tests.e2e.experiments import experiment, launch, record_of
from tests.e2e.test_nrp_run_local import run_local
from tests.waiting import wait_until

FOR_EVER = 1e-9
"""With this a step lasts four months."""

STEPPING = "while True:\n    nrp.run_loop()\n"


def held(stack: RunningStack) -> int:
    """A simulation that has taken its first step and waits for real time."""
    number: int = launch(stack, experiment(stack, STEPPING), realTimeFactor=FOR_EVER)["simulationID"]
    stack.put_state(number, "started")
    wait_until(lambda: record_of(stack, number)["simulationTime"])
    return number


def test_a_held_simulation_is_paused_stepped_reset_and_stopped(stack: RunningStack) -> None:
    number = held(stack)
    assert stack.put_state(number, "paused").json() == {"state": "paused"}
    assert stack.post(f"/simulation/{number}/step").json() == {"state": "paused"}
    assert record_of(stack, number)["simulationTime"] == pytest.approx(0.02)
    assert stack.put_state(number, "started").json() == {"state": "started"}
    assert stack.post(f"/simulation/{number}/reset").json() == {"state": "paused"}
    assert record_of(stack, number)["simulationTime"] == 0
    assert stack.put_state(number, "started").json() == {"state": "started"}
    wait_until(lambda: record_of(stack, number)["simulationTime"])
    assert record_of(stack, number)["simulationTime"] == pytest.approx(0.01)
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}


def test_a_stop_wakes_a_held_simulation(stack: RunningStack) -> None:
    number = held(stack)
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    assert record_of(stack, number)["error"] is None


def test_a_configured_limit_holds_and_the_command_line_replaces_it(tmp_path: Path) -> None:
    for file in (EXAMPLES / "two_engines").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    configuration = json.loads((tmp_path / "simulation_config.json").read_text())
    (tmp_path / "simulation_config.json").write_text(
        json.dumps({**configuration, "SimulationTimeout": 20, "RealTimeFactor": 40})
    )
    last = json.loads(run_local(tmp_path, "--json").stdout.splitlines()[-1])
    assert last["simulationTime"] / last["realTime"] <= 40
    last = json.loads(run_local(tmp_path, "--json", "--realtime-factor", "25").stdout.splitlines()[-1])
    assert last["simulationTime"] / last["realTime"] <= 25
