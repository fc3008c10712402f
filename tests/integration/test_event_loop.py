"""Simulations in real time, and graphs with MQTT nodes, as clients of a real broker see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nrp_common.bus import BrokerAddress
from nrp_simserver.cores.configuration import MQTTNodeConfiguration
from nrp_simserver.server.mqtt_nodes import MQTTNodes, connector
from tests.brokers import plain_port
from tests.mosquitto import Mosquitto
from tests.simulation_servers import RunningSimulation, SimulationServers, Wire
from tests.waiting import wait_until

ECHO = """
from nrp_core.event_loop import *
from nrp_core.data.nrp_json import *

@FromMQTT(keyword="asked", address="{topic}/asked", type=NlohmannJson)
@ToMQTT(keyword="answer", address="{topic}/answer", type=NlohmannJson)
@FunctionalNode(name="echo", outputs=["answer"])
def echo(asked):
    return {{"answer": asked["x"]}}

@Clock(keyword="clock")
@FunctionalNode(name="tick")
def tick(clock):
    print("tick", clock, flush=True)
"""

LOOP = "while True:\n    nrp.run_loop()\n"


def echoing(topic: str, timestep: float = 0.002, **fields: Any) -> dict[str, Any]:
    """The preparation of a simulation without engines that answers what is published to it."""
    configuration = {
        "EngineConfigs": [],
        "SimulationLoop": "EventLoop",
        "EventLoop": {"Timestep": timestep},
        "ComputationalGraph": ["graph.py"],
        **fields,
    }
    return {"script": LOOP, "configuration": configuration, "files": {"graph.py": ECHO.format(topic=topic)}}


def answers(wire: Wire, topic: str) -> list[Any]:
    return [seen.json["answer"] for seen in wire.on(f"{topic}/answer")]


@pytest.fixture
def other_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that is not the simulation's."""
    (tmp_path / "other").mkdir()
    mosquitto = Mosquitto(tmp_path / "other")
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


@contextmanager
def wire_to(broker: Mosquitto) -> Iterator[Wire]:
    wire = Wire(broker.address)
    try:
        yield wire
    finally:
        wire.close()


# -- MQTT nodes --------------------------------------------------------------------------------------------------------


def test_nodes_hear_and_publish_on_the_simulations_own_broker(servers: SimulationServers, wire: Wire) -> None:
    simulation = servers.started(**echoing("own"))
    wire.publish("own/asked", b'{"x": [1, "two"]}')
    wire.publish("own/asked", b"no JSON")
    wire.publish("own/asked", b'{"x": 3}')
    wait_until(lambda: answers(wire, "own")[-1:] == [3])
    simulation.command("stopped")
    simulation.await_end()
    assert simulation.journal.error is None


def test_what_is_published_once_a_simulation_is_paused_is_not_missed(servers: SimulationServers, wire: Wire) -> None:
    simulation = servers.paused(**echoing("early"))
    wire.publish("early/asked", b'{"x": 1}')
    simulation.command("started")
    wait_until(lambda: answers(wire, "early") == [1])


def test_the_simulations_broker_may_be_named_by_the_experiment(
    servers: SimulationServers, wire: Wire, broker: BrokerAddress
) -> None:
    named = f"{broker.host}:{plain_port(broker)}"
    servers.started(**echoing("named", MQTTNode={"MQTTBroker": named, "ClientName": "echo"}))
    wire.publish("named/asked", b'{"x": 1}')
    wait_until(lambda: answers(wire, "named") == [1])


def test_nodes_reach_another_broker_and_find_back_to_it(servers: SimulationServers, other_broker: Mosquitto) -> None:
    simulation = servers.started(**echoing("lab", MQTTNode={"MQTTBroker": str(other_broker.address)}))
    with wire_to(other_broker) as wire:
        wire.publish("lab/asked", b'{"x": 1}')
        wait_until(lambda: answers(wire, "lab") == [1])
    other_broker.stop()
    other_broker.start()
    with wire_to(other_broker) as wire:
        wire.publish("lab/asked", b'{"x": 2}', retain=True)
        wait_until(lambda: answers(wire, "lab") == [2])
    simulation.command("stopped")
    simulation.await_end()
    assert simulation.wire.on("lab/answer") == []


def test_two_simulations_with_one_client_name_do_not_evict_each_other(servers: SimulationServers, wire: Wire) -> None:
    for topic in ("one", "two"):
        servers.started(**echoing(topic, MQTTNode={"ClientName": "same"}))
    for x in range(3):
        for topic in ("one", "two"):
            wire.publish(f"{topic}/asked", f'{{"x": {x}}}'.encode())
            wait_until(lambda topic=topic, x=x: answers(wire, topic)[-1:] == [x])  # type: ignore[misc]


def test_a_broker_that_cannot_be_reached_fails_the_launch(servers: SimulationServers) -> None:
    simulation = servers.launch(**echoing("lab", MQTTNode={"MQTTBroker": "127.0.0.1:1"}))
    simulation.await_end(20)
    assert simulation.journal.error is not None
    assert (
        "The MQTT broker at 127.0.0.1:1 cannot be reached: [Errno 111] Connection refused" in simulation.journal.error
    )


def test_what_a_broker_retains_is_heard_at_launch_and_again_after_a_reset(
    servers: SimulationServers, wire: Wire
) -> None:
    wire.publish("kept/asked", b'{"x": "kept"}', retain=True)
    simulation = servers.started(**echoing("kept"))
    wait_until(lambda: answers(wire, "kept") == ["kept"])
    wire.publish("kept/asked", b'{"x": "passing"}')
    wait_until(lambda: answers(wire, "kept") == ["kept", "passing"])
    simulation.command("reset")
    simulation.command("started")
    wait_until(lambda: answers(wire, "kept") == ["kept", "passing", "kept"])
    wire.publish("kept/asked", b"", retain=True)


def test_a_simulation_resets_while_the_broker_of_its_nodes_is_away(
    servers: SimulationServers, other_broker: Mosquitto
) -> None:
    simulation = servers.started(**echoing("lab", MQTTNode={"MQTTBroker": str(other_broker.address)}))
    other_broker.stop()
    wait_until(lambda: "Lost the MQTT broker" in simulation.log)
    assert simulation.command("reset").state == "paused"
    simulation.command("started")
    other_broker.start()
    with wire_to(other_broker) as wire:
        wire.publish("lab/asked", b'{"x": 1}', retain=True)
        wait_until(lambda: answers(wire, "lab") == [1])


@pytest.mark.parametrize("is_own", [True, False])
def test_a_program_connects_nodes_as_a_simulation_server_does(is_own: bool, broker: BrokerAddress, wire: Wire) -> None:
    own = BrokerAddress(broker.host, broker.port) if is_own else None
    named = {} if is_own else {"MQTTBroker": f"tcp://{broker.host}:{plain_port(broker)}"}
    nodes = connector(own)(MQTTNodeConfiguration.model_validate(named))
    heard: list[bytes] = []
    try:
        nodes.subscribe({"lab/heard": heard.append})
        wire.publish("lab/heard", b"1")
        nodes.publish("lab/said", b"2")
        wait_until(lambda: heard == [b"1"] and [seen.payload for seen in wire.on("lab/said")] == [b"2"])
    finally:
        nodes.close()
    assert isinstance(nodes, MQTTNodes)


# -- real time ---------------------------------------------------------------------------------------------------------


def ticks(simulation: RunningSimulation) -> list[str]:
    return [line for line in simulation.log.splitlines() if line.startswith("tick")]


def test_simulated_time_does_not_run_ahead_of_real_time(servers: SimulationServers) -> None:
    simulation = servers.started(**echoing("lab", timestep=0.01))
    wait_until(lambda: sum(each["simulationTime"] > 0.5 for each in simulation.statuses) >= 2)
    earlier, later = simulation.statuses[-2:]
    assert earlier["simulationTime"] <= later["realTime"] + 0.01


LONG_S = 1000.0


def test_a_simulation_pauses_and_goes_on_within_a_long_step(servers: SimulationServers) -> None:
    simulation = servers.started(**echoing("lab", timestep=LONG_S))
    wait_until(lambda: len(ticks(simulation)) == 1)
    simulation.command("paused")
    wait_until(lambda: [each["simulationTime"] for each in simulation.statuses[-1:]] == [LONG_S])
    assert len(ticks(simulation)) == 1
    simulation.command("started")
    wait_until(lambda: len(ticks(simulation)) == 2)


def test_a_simulation_resets_within_a_long_step(servers: SimulationServers) -> None:
    simulation = servers.started(**echoing("lab", timestep=LONG_S))
    wait_until(lambda: len(ticks(simulation)) == 1)
    assert simulation.command("reset").state == "paused"
    simulation.command("started")
    wait_until(lambda: ticks(simulation) == ["tick 0", "tick 0"])


def test_a_simulation_stops_within_a_long_step(servers: SimulationServers) -> None:
    simulation = servers.started(**echoing("lab", timestep=LONG_S))
    wait_until(lambda: len(ticks(simulation)) == 1)
    simulation.command("stopped")
    simulation.await_end()
    assert simulation.journal.error is None
