"""The data transfer engine: what it publishes and records of the datapacks that functions return to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nrp_common.errors import EngineFailed
from tests.unit.cores.experiment import Experiment, forward


class Published(NamedTuple):
    topic: str
    payload: str
    qos: int
    retained: bool


class Listener:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.published: list[Published] = []

    def __call__(self, topic: str, payload: bytes, qos: int, retained: bool) -> None:
        self.published.append(Published(topic, payload.decode(), qos, retained))

    def on(self, topic: str) -> list[str]:
        return [published.payload for published in self.published if published.topic == topic]


@pytest.fixture
def listener() -> Listener:
    return Listener()


def transferring(experiment: Experiment, *dumps: dict[str, Any], **fields: Any) -> Experiment:
    """An engine `a` whose `out` is handed to the data transfer engine as `inbox`."""
    experiment.engine("a")
    experiment.configuration["EngineConfigs"].append(
        {
            "EngineName": "transfer",
            "EngineType": "datatransfer_grpc_engine",
            "simulationID": 3,
            "dumps": list(dumps),
            **fields,
        }
    )
    return experiment.function("forward", forward("a", "transfer"))


def recorded(experiment: Experiment) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in Path(experiment.folder, "data").glob("*/*.data")}


def test_datapacks_for_the_network_are_published_as_json(experiment: Experiment, listener: Listener) -> None:
    core = transferring(experiment, {"name": "inbox", "network": True}).core(publisher=listener)
    core.initialize()
    core.run_loop(3)
    assert listener.on("data/inbox") == ['{"steps":0}', '{"steps":1}', '{"steps":2}']
    assert {(each.qos, each.retained) for each in listener.published if each.topic == "data/inbox"} == {(1, False)}


def test_the_topics_are_listed_with_their_types_once_these_are_known(
    experiment: Experiment, listener: Listener
) -> None:
    core = transferring(experiment, {"name": "inbox", "network": True}, MQTTPrefix="lab").core(publisher=listener)
    core.initialize()
    core.run_loop(2)
    topic = "lab/nrp_simulation/3/data/inbox"
    assert [json.loads(text) for text in listener.on("data")] == [
        [{"topic": topic, "type": ""}],
        [{"topic": topic, "type": "JsonDataPack"}],
    ]
    assert all(each.retained and each.qos == 1 for each in listener.published if each.topic == "data")


def test_simulated_time_is_published_every_step(experiment: Experiment, listener: Listener) -> None:
    core = transferring(experiment).core(publisher=listener)
    core.initialize()
    core.run_loop(3)
    assert listener.on("time") == ["0.01", "0.02", "0.03"]


def test_it_says_welcome_and_good_bye(experiment: Experiment, listener: Listener) -> None:
    core = transferring(experiment).core(publisher=listener)
    core.initialize()
    core.shutdown()
    assert listener.on("welcome") == ["NRP-core is connected!", "Bye! NRP-core is disconnecting!"]
    assert all(each.retained for each in listener.published if each.topic == "welcome")


def test_a_reset_is_told_and_restarts_the_time(experiment: Experiment, listener: Listener) -> None:
    core = transferring(experiment, {"name": "inbox", "network": True}).core(publisher=listener)
    core.initialize()
    core.run_loop(2)
    core.reset()
    core.run_loop()
    assert listener.on("data/inbox") == ['{"steps":0}', '{"steps":1}', "reset", '{"steps":2}']
    assert listener.on("time") == ["0.01", "0.02", "0.01"]


def test_datapacks_for_a_file_are_recorded_with_the_simulated_time(experiment: Experiment) -> None:
    core = transferring(experiment, {"name": "inbox", "file": True}).started()
    core.run_loop(2)
    core.reset()
    core.run_loop()
    core.shutdown()
    assert recorded(experiment) == {
        "inbox-0.data": ['0,{"steps":0}', '0.01,{"steps":1}'],
        "inbox-1.data": ['0,{"steps":2}'],
    }


def test_what_is_recorded_is_in_the_file_at_once(experiment: Experiment) -> None:
    core = transferring(experiment, {"name": "inbox", "file": True}).started()
    core.run_loop()
    assert recorded(experiment) == {"inbox-0.data": ['0,{"steps":0}']}
    core.run_loop()
    assert recorded(experiment) == {"inbox-0.data": ['0,{"steps":0}', '0.01,{"steps":1}']}
    core.shutdown()


def test_what_is_not_listed_is_neither_published_nor_recorded(experiment: Experiment, listener: Listener) -> None:
    core = transferring(experiment, {"name": "other", "network": True, "file": True}).core(publisher=listener)
    core.initialize()
    core.run_loop(2)
    assert {each.topic for each in listener.published} == {"welcome", "data", "time"}
    assert recorded(experiment) == {}


def test_datapacks_from_outside_are_handed_on_too(experiment: Experiment, listener: Listener) -> None:
    core = transferring(experiment, {"name": "remark", "network": True}).core(publisher=listener)
    core.initialize()
    core.set_json_datapack("remark", "transfer", {"text": "hello"})
    core.run_loop()
    assert listener.on("data/remark") == ['{"text":"hello"}']


def test_it_cannot_be_asked_for_datapacks(experiment: Experiment) -> None:
    core = transferring(experiment).function("ask", forward("transfer", "a")).core()
    with pytest.raises(EngineFailed, match="'transfer' only takes datapacks: no function can ask it for 'out'"):
        core.initialize()
