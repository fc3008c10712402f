"""From the launch request to the engine: id and trace of the request in logs and environment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from nrp_common import tracing
from nrp_common.bus import BrokerAddress
from nrp_common.tracing import Context
from tests.launchers import Launched, RunningLauncher
from tests.simulation_servers import ENGINE
from tests.storage_server import StorageServer
from tests.waiting import wait_until

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-11111111111111111111111111111111-2222222222222222-01"

TELLING = """
import os
print("script finds", os.environ.get("NRP_REQUEST_ID"), os.environ.get("TRACEPARENT"), flush=True)
nrp.run_loop()
"""
TELLING_ENGINE = 'import os\nprint("engine finds", os.environ.get("TRACEPARENT"), flush=True)\n' + ENGINE


@pytest.fixture(scope="module", params=["json", "console"])
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def logging_launcher(
    broker: BrokerAddress, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory, log_format: str
) -> Iterator[RunningLauncher]:
    """A launcher that was itself started within a trace, which is none of its simulations' business."""
    folder = tmp_path_factory.mktemp("launcher")
    launcher = RunningLauncher(broker, storage, folder, capacity=4, log_format=log_format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TRACEPARENT", OTHER_TRACE)
        launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


def completed(launcher: RunningLauncher, context: Context) -> Launched:
    """A simulation that was launched and started on behalf of requests, and has ended."""
    with tracing.within(context):
        simulation = launcher.paused(TELLING, files={"engine.py": TELLING_ENGINE})
    with tracing.within(Context("start-1")):
        simulation.command("started")
    simulation.await_transition("completed")
    simulation.command("stopped")
    simulation.await_final()
    return simulation


def test_the_experiment_finds_the_request_in_its_environment(logging_launcher: RunningLauncher) -> None:
    simulation = completed(logging_launcher, Context("launch-1", TRACE))
    log = simulation.log_in(simulation.await_final()["logs"])
    assert f"script finds launch-1 {TRACE}" in log
    assert f"engine finds {TRACE}" in log


def test_it_finds_no_trace_where_the_request_had_none(logging_launcher: RunningLauncher) -> None:
    simulation = completed(logging_launcher, Context())
    log = simulation.log_in(simulation.await_final()["logs"])
    assert "script finds None None" in log


def test_launcher_and_server_log_on_whose_behalf(logging_launcher: RunningLauncher, log_format: str) -> None:
    simulation = completed(logging_launcher, Context("launch-2", TRACE))
    log = simulation.log_in(simulation.await_final()["logs"])
    wait_until(lambda: f"Simulation {simulation.id} stopped" in logging_launcher.log)
    of_launch = {
        "simulation": simulation.id,
        "owner": StorageServer.OWNER,
        "request_id": "launch-2",
        "traceparent": TRACE,
    }
    of_start = {"simulation": simulation.id, "owner": StorageServer.OWNER, "request_id": "start-1"}
    for text, event, fields in (
        (logging_launcher.log, f"Took simulation {simulation.id} ", of_launch),
        (logging_launcher.log, f"Simulation {simulation.id} stopped", of_launch),
        (log, "Ready to start main_script.py", of_launch),
        (log, "Took the command 'started'", of_start),
    ):
        (line,) = (each for each in text.splitlines() if event in each)
        if log_format == "json":
            assert json.loads(line).items() >= fields.items()
        else:
            assert all(f"{name}={value}" in line for name, value in fields.items()), line
    assert StorageServer.TOKEN not in logging_launcher.log + log
    assert logging_launcher.log.count("\x1b") == 0
