"""Launches that wait for their turn, and launchers chosen by what they have."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from nrp_common.bus import BrokerAddress
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import WAITING_FOR_A_NODE, NodeQueue, Progress, Refusal, Reply, TaskDone
from tests.fakes import FakeLauncher, created, failed
from tests.gateways import Installations, RunningGateway
from tests.simulation_servers import Wire
from tests.waiting import wait_until


@pytest.fixture
def launcher(installation: Installations) -> FakeLauncher:
    """One with a single place."""
    return installation.launcher(capacity=1)


@pytest.fixture
def gateway(installation: Installations, launcher: FakeLauncher) -> RunningGateway:
    gateway = installation.gateway()
    gateway.await_launcher()
    return gateway


def queue(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    """Launch, or wait for it. The answer."""
    answer = gateway.post("/simulation", {"experimentID": "demo", "queue": True, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def seen(gateway: RunningGateway, simulation_id: int) -> dict[str, Any]:
    return dict(gateway.get(f"/simulation/{simulation_id}").get_json())


def end(launcher: FakeLauncher, simulation_id: int) -> None:
    """Let a simulation end, and the launcher say that it has room again."""
    launcher.simulations[simulation_id].end(SimulationState.STOPPED)
    launcher.announce()


def test_launch_that_somebody_has_room_for_does_not_wait(gateway: RunningGateway) -> None:
    answer = queue(gateway)
    assert (answer["state"], answer["launcher"], answer["queuePosition"]) == ("paused", "fake", None)


def test_launch_without_room_is_answered_at_once_with_its_position(gateway: RunningGateway) -> None:
    queue(gateway)
    waiting = [queue(gateway) for _ in range(2)]
    assert [(each["state"], each["launcher"], each["queuePosition"]) for each in waiting] == [
        ("created", "", 1),
        ("created", "", 2),
    ]


def test_queued_launch_starts_when_a_place_is_free(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    first, second, third = (queue(gateway)["simulationID"] for _ in range(3))
    end(launcher, first)
    gateway.await_state(second, "paused")
    assert seen(gateway, second)["queuePosition"] is None
    assert seen(gateway, third)["queuePosition"] == 1
    assert list(launcher.simulations) == [first, second]


def test_positions_are_told_on_the_bus_as_progress(
    gateway: RunningGateway, launcher: FakeLauncher, broker: BrokerAddress
) -> None:
    wire = Wire(broker)
    try:
        first, second, third = (queue(gateway)["simulationID"] for _ in range(3))
        end(launcher, first)
        gateway.await_state(second, "paused")
        topic = gateway.topics.status(third)

        def told() -> list[str]:
            messages = [json.loads(each.payload) for each in wire.on(topic)]
            return [each["progress"].get("subtask", "over") for each in messages if "progress" in each]

        wait_until(lambda: told()[-1:] == ["Position 1 of 1 in the queue"])
        assert told()[0] == "Position 2 of 2 in the queue"
        end(launcher, second)
        wait_until(lambda: told()[-1:] == ["over"])
    finally:
        wire.close()


def test_queued_launch_can_be_stopped(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    first, second = (queue(gateway)["simulationID"] for _ in range(2))
    assert gateway.ask_state(second, "stopped").get_json() == {"state": "stopped"}
    end(launcher, first)
    gateway.await_state(queue(gateway)["simulationID"], "paused")
    assert second not in launcher.simulations
    assert gateway.state(second) == "stopped"


def test_queued_launch_cannot_be_started(gateway: RunningGateway) -> None:
    queue(gateway)
    answer = gateway.ask_state(queue(gateway)["simulationID"], "started")
    assert (answer.status_code, answer.get_json()["message"]) == (
        400,
        "The state transition is invalid ('created' -> 'started')",
    )


def test_queued_launch_can_be_deleted(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    first, second = (queue(gateway)["simulationID"] for _ in range(2))
    assert gateway.delete(f"/simulation/{second}").status_code == 204
    end(launcher, first)
    assert gateway.get(f"/simulation/{second}").status_code == 404
    gateway.await_state(queue(gateway)["simulationID"], "paused")


def test_queue_outlives_its_gateway(
    gateway: RunningGateway, launcher: FakeLauncher, installation: Installations
) -> None:
    first, second = (queue(gateway)["simulationID"] for _ in range(2))
    installation.end(gateway)
    end(launcher, first)
    restarted = installation.gateway()
    restarted.await_state(second, "paused")


def test_launch_without_a_queue_is_refused_as_before(gateway: RunningGateway) -> None:
    queue(gateway)
    queue(gateway)
    assert gateway.post("/simulation", {"experimentID": "demo"}).status_code == 409


def test_queued_launch_that_fails_is_failed_and_the_next_one_gets_its_place(
    gateway: RunningGateway, launcher: FakeLauncher
) -> None:
    first, second, third = (queue(gateway)["simulationID"] for _ in range(3))
    launcher.on_launch = failed
    end(launcher, first)
    gateway.await_state(second, "failed")
    launcher.behave()
    launcher.announce()
    wait_until(lambda: gateway.state(third) != "created")


def test_queued_launch_that_is_refused_goes_to_another_launcher(
    gateway: RunningGateway, launcher: FakeLauncher, installation: Installations
) -> None:
    refusing = installation.launcher(name="refusing", capacity=9)
    refusing.refusal = Reply(error="its disk is full", refusal=Refusal.FAILED)
    wait_until(lambda: gateway.gateway.presences.capacity == 10)
    assert queue(gateway)["launcher"] == "fake"


def test_owners_take_turns(installation: Installations, broker: BrokerAddress) -> None:
    launcher = installation.launcher(capacity=1)
    storage = installation.storage()
    tokens = {"ann": "token-ann", "bob": "token-bob"}
    storage.users |= {token: user for user, token in tokens.items()}
    gateway = installation.gateway(storage_url=storage.url, authentication="storage", secret_key="s")
    gateway.await_launcher()

    def launch(user: str) -> int:
        body = {"experimentID": "demo", "queue": True}
        return int(gateway.post("/simulation", body, token=tokens[user]).get_json()["simulationID"])

    running = launch("ann")
    anns = [launch("ann") for _ in range(3)]
    bobs = [launch("bob") for _ in range(2)]
    turns = []
    for _ in range(5):
        end(launcher, running)
        wait_until(lambda: len(launcher.simulations) > len(turns) + 1)
        running = list(launcher.simulations)[-1]
        gateway.await_state(running, "paused", token=tokens["ann" if running in anns else "bob"])
        turns.append(running)
    assert turns == [bobs[0], anns[0], bobs[1], anns[1], anns[2]]


# -- in the queue of a cluster ---------------------------------------------------------------------------------------


def test_place_in_a_clusters_queue_is_in_the_record_until_it_runs(
    gateway: RunningGateway, launcher: FakeLauncher
) -> None:
    launcher.on_launch = created
    asked = {"experimentID": "demo", "resources": {"gpus": 1, "timeLimit": 600.5, "partition": "gpu", "account": "lab"}}
    waiting = threading.Thread(target=gateway.post, args=("/simulation", asked))
    waiting.start()
    wait_until(lambda: launcher.simulations)
    wishes = launcher.launches[-1].wishes
    assert (wishes.gpus, wishes.time_limit, wishes.partition, wishes.account) == (1, 600.5, "gpu", "lab")
    (simulation,) = launcher.simulations.values()

    def told() -> tuple[int | None, str | None]:
        body = gateway.get(f"/simulation/{simulation.id}").get_json()
        return body["queuePosition"], body["queueReason"]

    assert told() == (None, None)
    topic = gateway.topics.status(simulation.id)
    launcher.bus.publish(topic, Progress(progress=NodeQueue(queue_position=3, queue_reason="Priority, job 17")))
    wait_until(lambda: told() == (3, "Priority, job 17"))
    launcher.bus.publish(topic, Progress(progress=NodeQueue(queue_reason="Slurm does not answer")))
    wait_until(lambda: told() == (None, "Slurm does not answer"))
    launcher.bus.publish(topic, Progress(progress=TaskDone(task=WAITING_FOR_A_NODE)))
    wait_until(lambda: told() == (None, None))
    launcher.bus.publish(topic, Progress(progress=NodeQueue(queue_position=1, queue_reason="Resources, job 17")))
    wait_until(lambda: told() == (1, "Resources, job 17"))
    simulation.report(SimulationEvent.INITIALIZED)
    wait_until(lambda: told() == (None, None))
    waiting.join()


def test_queued_launch_that_asks_for_gpus_waits_for_a_launcher_that_has_them(
    gateway: RunningGateway, installation: Installations
) -> None:
    installation.launcher(name="own", capacity=9, free_gpus=0)
    wait_until(lambda: gateway.gateway.presences.capacity == 10)
    assert queue(gateway, resources={"gpus": 1})["launcher"] == "fake"


# -- what launchers have ---------------------------------------------------------------------------------------------


def test_launch_goes_where_the_labels_are(gateway: RunningGateway, installation: Installations) -> None:
    installation.launcher(name="strong", capacity=5, labels=("gpu", "gazebo"))
    wait_until(lambda: gateway.gateway.presences.capacity == 6)
    for wanted in ("gpu", ["gpu"], ["gazebo", "gpu"], "strong"):
        answer = gateway.post("/simulation", {"experimentID": "demo", "launcher": wanted})
        assert answer.get_json()["launcher"] == "strong"
    answer = gateway.post("/simulation", {"experimentID": "demo", "launcher": "fake"})
    assert answer.get_json()["launcher"] == "fake"


def test_launch_that_asks_for_what_no_launcher_has_is_503_that_says_who_has_what(
    gateway: RunningGateway, installation: Installations
) -> None:
    installation.launcher(name="strong", capacity=5, labels=("gpu",))
    wait_until(lambda: gateway.gateway.presences.capacity == 6)
    answer = gateway.post("/simulation", {"experimentID": "demo", "launcher": ["gpu", "gazebo"]})
    assert answer.status_code == 503
    assert answer.get_json()["message"] == ("No launcher has gpu and gazebo ('fake' has none; 'strong' has gpu)")


def test_queued_launch_waits_for_a_launcher_with_its_labels(
    gateway: RunningGateway, installation: Installations
) -> None:
    waiting = queue(gateway, launcher="gpu")
    assert (waiting["state"], waiting["queuePosition"]) == ("created", 1)
    assert queue(gateway)["launcher"] == "fake"
    installation.launcher(name="strong", labels=("gpu",))
    gateway.await_state(waiting["simulationID"], "paused")


def test_queued_launch_waits_for_the_cores_that_it_asks_for(
    gateway: RunningGateway, installation: Installations
) -> None:
    busy = installation.launcher(name="busy", capacity=5, free_cores=1.0)
    wait_until(lambda: gateway.gateway.presences.capacity == 6)
    queue(gateway)
    waiting = queue(gateway, launcher="busy", resources={"cores": 2})
    assert waiting["state"] == "created"
    busy.free_cores = 2.0
    busy.announce()
    gateway.await_state(waiting["simulationID"], "paused")
    assert busy.launches[-1].wishes.cores == 2.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queue": "yes"}, "queue: "),
        ({"launcher": 7}, "launcher: "),
        ({"launcher": ["a,b"]}, "launcher: must be printable text without commas"),
        ({"resources": {"cores": -1}}, "resources.cores: "),
        ({"resources": {"memoryMB": "much"}}, "resources.memoryMB: "),
        ({"resources": {"tpus": 1}}, "resources.tpus: "),
        ({"resources": {"gpus": -1}}, "resources.gpus: "),
        ({"resources": {"timeLimit": 0}}, "resources.timeLimit: "),
        ({"resources": {"partition": "--x"}}, "resources.partition: "),
        ({"resources": {"account": "a b"}}, "resources.account: "),
    ],
)
def test_wrong_wishes_are_400_that_name_the_field(
    gateway: RunningGateway, fields: dict[str, Any], message: str
) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo", **fields})
    assert answer.status_code == 400
    assert answer.get_json()["message"].startswith(message)
