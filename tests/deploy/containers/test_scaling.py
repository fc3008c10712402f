"""Several launchers of one compose file, and what they leave for those that come after them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from nrp_common.bus import BrokerAddress, Bus
from nrp_common.messages import Command, CommandEvent
from nrp_common.topics import Topics
from tests.deploy.containers.installation import Installation
from tests.e2e.experiments import experiment, launch, record_of, started
from tests.simulation_servers import Wire
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def wire(scaled: Installation) -> Iterator[Wire]:
    wire = Wire(BrokerAddress(*scaled.mqtt))
    yield wire
    wire.close()


def present(wire: Wire) -> list[str]:
    """The launchers that are connected, by what each said last."""
    said = {seen.topic: seen.json for seen in wire.seen if "/presence" in seen.topic and seen.payload}
    return sorted(topic.split("/")[1] for topic, told in said.items() if "launcher" in topic and told["online"])


def folders(installation: Installation) -> list[str]:
    return installation.execute(installation.containers("launcher")[0], "ls", "/data").split()


def test_each_has_a_name_and_a_folder_of_its_own(scaled: Installation, wire: Wire) -> None:
    wait_until(lambda: present(wire) == ["launcher-1", "launcher-2", "launcher-3"], 30)
    assert folders(scaled) == ["1", "2", "3"]


def test_simulations_are_spread_over_them(scaled: Installation, wire: Wire) -> None:
    wait_until(lambda: len(present(wire)) == 3, 30)
    name = experiment(scaled)
    numbers = [started(scaled, name) for _ in range(6)]
    assert scaled.post("/simulation", {"experimentID": name}).status_code == 409
    running = {container: len(simulations_in(scaled, container)) for container in scaled.containers("launcher")}
    assert list(running.values()) == [2, 2, 2]
    for number in numbers:
        assert scaled.put_state(number, "stopped").json() == {"state": "stopped"}


def simulations_in(installation: Installation, container: str) -> set[str]:
    """The simulations that have a process in this container."""
    links = installation.execute(container, "sh", "-c", "readlink /proc/[0-9]*/cwd; true").splitlines()
    return {link.split("/simulations/")[1].split("/")[0] for link in links if "/simulations/" in link}


def test_launchers_that_are_made_anew_find_what_waits_for_the_storage(scaled: Installation, wire: Wire) -> None:
    wait_until(lambda: len(present(wire)) == 3, 30)
    name = experiment(scaled)
    numbers = [launch(scaled, name)["simulationID"] for _ in range(3)]
    scaled.compose("stop", "gateway")  # it keeps the experiments, so logs have nowhere to go
    for number in numbers:
        stop_over_the_bus(scaled, number)
    wait_until(lambda: spooled(scaled) == set(map(str, numbers)), 30)
    scaled.compose("rm", "--force", "--stop", "launcher")
    scaled.up("launcher", gateway=2, launcher=3)
    wait_until(lambda: all(record_of(scaled, number).get("logs") for number in numbers), 60)
    assert folders(scaled) == ["1", "2", "3"]
    wait_until(lambda: not spooled(scaled))


def stop_over_the_bus(installation: Installation, number: int) -> None:
    """As a gateway does it."""
    topics = Topics()
    bus = Bus(BrokerAddress(*installation.mqtt), "test", reply_topic=topics.reply(uuid.uuid4().hex))
    bus.start()
    bus.wait_until_connected(5)
    bus.request(topics.command(number), Command(deadline=time.time() + 8, event=CommandEvent.STOPPED), timeout=8)
    bus.close()


def spooled(installation: Installation) -> set[str]:
    found = installation.execute(installation.containers("launcher")[0], "sh", "-c", "ls /data/*/spool")
    return {line for line in found.split() if line.isdecimal()}
