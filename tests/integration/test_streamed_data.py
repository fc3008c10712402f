"""What a data transfer engine streams is on the bus, on the topics of its simulation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.simulation_servers import CONFIGURATION, SimulationServers
from tests.waiting import wait_until

FORWARD = """
from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="steps", id=DataPackIdentifier("steps", "counter"))
@TransceiverFunction("counter")
def forward(steps):
    seen = JsonDataPack("seen", "transfer")
    seen.data["n"] = steps.data["n"]
    return [seen]
"""

STREAMING: dict[str, Any] = {
    "EngineConfigs": [
        *CONFIGURATION["EngineConfigs"],
        {
            "EngineName": "transfer",
            "EngineType": "datatransfer_grpc_engine",
            "dumps": [{"name": "seen", "network": True, "file": True}],
        },
    ],
    "DataPackProcessingFunctions": [{"Name": "forward", "FileName": "forward.py"}],
}


@pytest.mark.parametrize("prefix", ["", "lab"])
def test_datapacks_are_streamed_below_the_simulations_topic(servers: SimulationServers, prefix: str) -> None:
    simulation = servers.paused(
        "nrp.run_loop(3)", configuration=STREAMING, files={"forward.py": FORWARD}, prefix=prefix
    )
    root = f"{prefix}/nrp_simulation/{simulation.id}" if prefix else f"nrp_simulation/{simulation.id}"
    simulation.command("started")
    simulation.await_transition("completed")
    wire = simulation.wire
    wait_until(lambda: len(wire.on(f"{root}/data/seen")) == 3)
    assert [seen.json for seen in wire.on(f"{root}/data/seen")] == [{"n": 0}, {"n": 1}, {"n": 2}]
    wait_until(lambda: len(wire.on(f"{root}/time")) == 3)
    assert [seen.payload for seen in wire.on(f"{root}/time")] == [b"0.01", b"0.02", b"0.03"]
    assert wire.on(f"{root}/welcome")[0].payload == b"NRP-core is connected!"
    assert wire.on(f"{root}/data")[-1].json == [{"topic": f"{root}/data/seen", "type": "JsonDataPack"}]
    (record,) = (simulation.folder.experiment / "data").glob("*/seen-0.data")
    assert [json.loads(line.partition(",")[2]) for line in record.read_text().splitlines()] == [
        {"n": 0},
        {"n": 1},
        {"n": 2},
    ]


def test_a_stopped_simulation_says_good_bye_to_its_listeners(servers: SimulationServers) -> None:
    simulation = servers.started(configuration=STREAMING, files={"forward.py": FORWARD})
    simulation.command("stopped")
    simulation.await_end()
    welcome = f"nrp_simulation/{simulation.id}/welcome"
    wait_until(lambda: simulation.wire.on(welcome)[-1].payload == b"Bye! NRP-core is disconnecting!")


def test_a_simulation_faster_than_the_broker_loses_nothing_of_its_data(servers: SimulationServers) -> None:
    simulation = servers.paused("nrp.run_loop(6000)", configuration=STREAMING, files={"forward.py": FORWARD})
    simulation.command("started")
    simulation.await_transition("completed", 60)
    data, time = (f"nrp_simulation/{simulation.id}/{leaf}" for leaf in ("data/seen", "time"))
    wait_until(lambda: len(simulation.wire.on(data)) == len(simulation.wire.on(time)) == 6000, 30)
    assert [seen.json["n"] for seen in simulation.wire.on(data)] == list(range(6000))
    assert "dropped" not in simulation.log


def test_a_simulation_that_streams_obeys(servers: SimulationServers) -> None:
    simulation = servers.started(
        "while True: nrp.run_loop(100)", configuration=STREAMING, files={"forward.py": FORWARD}
    )
    wait_until(lambda: len(simulation.wire.on(f"nrp_simulation/{simulation.id}/data/seen")) > 500, 30)
    assert simulation.command("paused").state == "paused"
    assert simulation.command("started").state == "started"
    simulation.command("stopped")
    simulation.await_end()
    # Whoever looks on gets all of the data before.
    wait_until(lambda: simulation.transitions == ["initialized", "started", "paused", "started"], 30)
