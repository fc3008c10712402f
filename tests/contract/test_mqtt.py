"""What NRP 4 frontends read on the bus, as a plain MQTT 3.1.1 client that subscribes to everything sees it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from nrp_common.bus import BrokerAddress
from tests.mosquitto import Mosquitto
from tests.simulation_servers import ENGINE, Forker, RunningSimulation, SimulationServers, Wire, forker, servers, wire
from tests.waiting import wait_until

__all__ = ["forker", "servers", "wire"]

RUN_ON = "import time\nwhile True:\n    nrp.run_loop()\n    time.sleep(0.001)\n"

FUNCTION = """
from nrp_core import *
from nrp_core.data.nrp_json import *

@EngineDataPack(keyword="steps", id=DataPackIdentifier("steps", "counter"))
@TransceiverFunction("counter")
def transceiver_function(steps):
    if steps.data["n"] > 2:
        raise ValueError("more than two")
    return []
"""

WITH_FUNCTION = {"DataPackProcessingFunctions": [{"Name": "watch", "FileName": "watch.py"}]}


def the_error(simulation: RunningSimulation) -> dict[str, Any]:
    """The one runtime error of a simulation that failed."""
    simulation.await_failure()
    wait_until(lambda: simulation.errors)
    (error,) = simulation.errors
    return dict(error)


def latest(simulation: RunningSimulation, field: str) -> Any:
    """What the latest status says, 0 when there is none: the first may arrive after the answer to a command."""
    return simulation.statuses[-1][field] if simulation.statuses else 0


# -- status ----------------------------------------------------------------------------------------------------------


def test_a_status_has_four_fields_and_finite_times(servers: SimulationServers) -> None:
    simulation = servers.started(configuration={"SimulationTimeout": 600})
    wait_until(lambda: latest(simulation, "simulationTime") > 0.02)
    for status in simulation.statuses:
        assert set(status) == {"realTime", "simulationTime", "state", "simulationTimeLeft"}
        assert all(math.isfinite(status[time]) for time in set(status) - {"state"})
        assert status["simulationTime"] + status["simulationTimeLeft"] in (0, pytest.approx(600))


def test_without_a_timeout_no_time_is_left(servers: SimulationServers) -> None:
    simulation = servers.started()
    wait_until(lambda: latest(simulation, "simulationTime") > 0)
    assert {status["simulationTimeLeft"] for status in simulation.statuses} == {0}


@pytest.mark.alone
def test_status_comes_at_the_configured_rate_whether_anything_changes_or_not(servers: SimulationServers) -> None:
    simulation = servers.paused(status_interval_s=0.05)
    count = len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) >= count + 20, timeout=3)


@pytest.mark.alone
@pytest.mark.parametrize("event", ["started", "paused"])
def test_a_change_of_state_is_in_a_status_at_once(servers: SimulationServers, event: str) -> None:
    simulation = servers.paused(status_interval_s=600.0) if event == "started" else servers.started()
    simulation.command(event)
    wait_until(lambda: latest(simulation, "state") == event, timeout=1)


def test_real_time_advances_only_while_it_is_started(servers: SimulationServers) -> None:
    simulation = servers.started()
    wait_until(lambda: latest(simulation, "realTime") > 0)
    simulation.command("paused")
    wait_until(lambda: latest(simulation, "state") == "paused")
    count = len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) > count + 3)
    assert len({status["realTime"] for status in simulation.statuses[count:]}) == 1


# -- progress --------------------------------------------------------------------------------------------------------


def test_initialising_is_announced_and_its_end(servers: SimulationServers) -> None:
    simulation = servers.paused()
    *steps, end = simulation.progress
    assert end == {"task": "Initializing", "done": True}
    assert [step["subtask_index"] for step in steps] == [0, 1, 2]
    for step in steps:
        assert set(step) == {"task", "subtask", "number_of_subtasks", "subtask_index", "block_ui"}
        assert step["task"] == "Initializing"
        assert step["number_of_subtasks"] == 3
        assert step["block_ui"] is True


def test_shutting_down_is_announced_and_its_end(servers: SimulationServers) -> None:
    simulation = servers.started()
    simulation.command("stopped")
    simulation.await_end()
    wait_until(lambda: simulation.progress[-1:] == [{"task": "Shutting down", "done": True}])
    assert simulation.progress[-2:] == [
        {"task": "Shutting down", "subtask": "", "number_of_subtasks": 0, "subtask_index": 0, "block_ui": True},
        {"task": "Shutting down", "done": True},
    ]


def test_progress_is_not_retained_and_has_no_state(servers: SimulationServers) -> None:
    simulation = servers.paused()
    messages = simulation.wire.on(simulation.topics.status(simulation.id))
    assert all("state" not in message.json for message in messages if "progress" in message.json)
    wait_until(lambda: latest(simulation, "state") == "paused")


# -- lifecycle -------------------------------------------------------------------------------------------------------


def test_each_transition_is_one_lifecycle_message(servers: SimulationServers) -> None:
    simulation = servers.started("nrp.run_loop()")
    simulation.await_transition("completed")
    assert [(each["source_state"], each["event"], each["target_state"]) for each in simulation.lifecycle] == [
        ("created", "initialized", "paused"),
        ("paused", "started", "started"),
        ("started", "completed", "completed"),
    ]
    assert {each["source_node"] for each in simulation.lifecycle} == {f"nrp_simulation_server_{simulation.id}"}
    assert {each["incarnation"] for each in simulation.lifecycle} == {simulation.setup.incarnation}
    assert all(after["seq"] > before["seq"] for before, after in itertools.pairwise(simulation.lifecycle))


# -- runtime errors --------------------------------------------------------------------------------------------------

FIELDS = {"sim_id", "msg", "error_type", "fileName", "line_number", "offset", "line_text"}


@pytest.mark.parametrize(
    ("script", "message", "kind"),
    [
        ("x = 1\nprint(y)\n", "NameError in main script (Line 2): name 'y' is not defined", "Compile"),
        ("x = 1\n1 / 0\n", "ZeroDivisionError in main script (Line 2): division by zero", "Runtime"),
        ("x = 1\nopen('missing')\n", "FileNotFoundError in main script (Line 2): ", "Runtime"),
        ("x = 1\nraise KeyError('k')\n", "KeyError in main script (Line 2): 'k'", "Runtime"),
    ],
)
def test_an_exception_of_the_script_arrives_with_its_place(
    servers: SimulationServers, script: str, message: str, kind: str
) -> None:
    error = the_error(simulation := servers.started(script))
    assert set(error) == FIELDS
    assert error["sim_id"] == str(simulation.id)
    assert error["msg"].startswith(message)
    assert error["error_type"] == kind
    assert (error["fileName"], error["line_number"]) == ("main_script.py", 2)
    assert error["line_text"] == script.splitlines()[1]


def test_a_syntax_error_arrives_with_its_column(servers: SimulationServers) -> None:
    error = the_error(servers.launch("x = 1\ny = = 2\n"))
    assert error["error_type"] == "Compile"
    assert (error["fileName"], error["line_number"], error["offset"]) == ("main_script.py", 2, 5)
    assert error["line_text"] == "y = = 2"


def test_an_exception_of_an_engine_arrives_with_its_place(servers: SimulationServers) -> None:
    engine = ENGINE.replace('self._getDataPack("steps")["n"] + 1', "1 / 0")
    error = the_error(servers.started("nrp.run_loop(3)", engine=engine))
    assert error["error_type"] == "Runtime"
    assert error["fileName"] == "engine.py"
    assert "1 / 0" in error["line_text"]
    assert error["line_number"] == 1 + engine.splitlines().index(f"        {error['line_text']}")


def test_an_exception_of_a_transceiver_function_arrives_with_its_place(servers: SimulationServers) -> None:
    files: dict[str, str | bytes] = {"watch.py": FUNCTION}
    error = the_error(servers.started(RUN_ON, configuration=WITH_FUNCTION, files=files))
    assert error["error_type"] == "Runtime"
    assert error["fileName"] == "watch.py"
    assert error["line_text"] == 'raise ValueError("more than two")'
    assert "more than two" in error["msg"]


def test_an_exception_in_a_module_of_the_experiment_arrives_with_its_place(servers: SimulationServers) -> None:
    files: dict[str, str | bytes] = {"tools/depth.py": "import json\n\ndef read():\n    return json.loads('{')\n"}
    error = the_error(servers.started("from tools.depth import read\nread()\n", files=files))
    assert error["fileName"] == "tools/depth.py"
    assert error["line_number"] == 4
    assert error["line_text"] == "return json.loads('{')"


def test_an_engine_that_cannot_be_initialised_is_a_loading_error(servers: SimulationServers) -> None:
    engine = ENGINE.replace("def initialize(self):", "def initialize(self):\n        raise OSError('no device')")
    error = the_error(servers.launch(engine=engine))
    assert error["error_type"] == "Loading"
    assert error["fileName"] == "engine.py"
    assert "no device" in error["msg"]


# -- topics ----------------------------------------------------------------------------------------------------------


def test_a_prefix_comes_before_every_topic(tmp_path: Path, forker: Forker) -> None:
    broker = Mosquitto(tmp_path)  # on which nobody else has said anything
    broker.start()
    wire = Wire(broker.address)
    servers = SimulationServers(broker.address, wire, tmp_path, forker)
    simulation = servers.started("nrp.run_loop()", prefix="lab/one")
    simulation.await_transition("completed")
    own = [seen.topic for seen in wire.seen if f"/{simulation.id}/" in seen.topic]
    servers.close()
    wire.close()
    broker.stop()
    assert own
    assert all(topic.startswith(f"lab/one/nrp_simulation/{simulation.id}/") for topic in own)


def test_without_a_prefix_there_is_no_leading_slash(servers: SimulationServers) -> None:
    simulation = servers.paused()
    assert not [seen.topic for seen in simulation.wire.seen if seen.topic.startswith("/")]


def test_the_last_state_and_status_are_retained(servers: SimulationServers, broker: BrokerAddress) -> None:
    simulation = servers.paused()
    late = Wire(broker)
    try:
        wait_until(lambda: late.on(simulation.topics.lifecycle(simulation.id)))
        wait_until(lambda: late.on(simulation.topics.status(simulation.id)))
        assert late.on(simulation.topics.lifecycle(simulation.id))[0].json["target_state"] == "paused"
        wait_until(lambda: late.on(simulation.topics.status(simulation.id))[-1].json["state"] == "paused")
    finally:
        late.close()
