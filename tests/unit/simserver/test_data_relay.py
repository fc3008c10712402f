"""What the original nrp-core publishes reaches the topics of its simulation."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from nrp_common.bus import Bus
from nrp_common.topics import Topics
from nrp_simserver.server.data_relay import DataRelay
from tests.fakes import FakeBus


@pytest.fixture(params=["", "lab/"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Of the installation, with its slash."""
    return str(request.param)


@pytest.fixture
def below(prefix: str) -> str:
    """What the original publishes its topics below."""
    return f"{prefix.replace('/', '_')}nrp_core_sim_7/nrp_simulation/7"


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
def passed_on(bus: FakeBus, prefix: str, below: str) -> list[tuple[Any, ...]]:
    """What a relay for simulation 7, which listens, has passed on."""
    passed_on: list[tuple[Any, ...]] = []
    relay = DataRelay(cast(Bus, bus), Topics(prefix.strip("/")), 7, lambda *message: passed_on.append(message))
    assert f"{relay.listen()}/nrp_simulation/7" == below
    return passed_on


def test_datapacks_and_times_are_passed_on_as_they_are(bus: FakeBus, below: str, passed_on: list[Any]) -> None:
    bus.hear(f"{below}/data/camera", b"\x00frame")
    bus.hear(f"{below}/time", b"0.01")
    assert passed_on == [("data/camera", b"\x00frame", 1, False), ("time", b"0.01", 1, False)]


def test_the_list_of_topics_names_those_that_are_passed_on_to(
    bus: FakeBus, prefix: str, below: str, passed_on: list[Any]
) -> None:
    bus.hear(f"{below}/data", json.dumps([{"topic": f"{below}/data/camera", "type": ""}]).encode())
    ((leaf, payload, _, retained),) = passed_on
    assert (leaf, retained) == ("data", True)
    assert json.loads(payload) == [{"topic": f"{prefix}nrp_simulation/7/data/camera", "type": ""}]


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"7", b'["x"]', b'[{"name": "x"}]', b'[{"topic": 7}]'])
def test_what_is_no_list_of_topics_is_passed_on_as_it_is(
    bus: FakeBus, below: str, passed_on: list[Any], payload: bytes
) -> None:
    bus.hear(f"{below}/data", payload)
    assert passed_on == [("data", payload, 1, True)]


def test_what_the_broker_keeps_it_keeps_for_the_simulation_only(bus: FakeBus, below: str, passed_on: list[Any]) -> None:
    topic = f"{below}/welcome"
    bus.retained[topic] = b"hello"
    bus.hear(topic, b"hello")
    assert passed_on == [("welcome", b"hello", 1, True)]
    assert bus.retained == {}
    bus.hear(topic, b"")
    assert len(passed_on) == 1
