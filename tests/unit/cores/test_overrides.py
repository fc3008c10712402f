"""Overrides as NRPCoreSim takes them on its command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nrp_simserver.cores.configuration import SimulationConfiguration
from nrp_simserver.cores.nrpcoresim.overrides import data_transfer_overrides, override_options


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("7", '"7"'),
        (5, "5"),
        (0.25, "0.25"),
        (False, "false"),
        (None, "null"),
        ("bus:1883", '"bus:1883"'),
        ('a "quoted" one', r'"a \"quoted\" one"'),
        ("back\\slash", r'"back\\slash"'),
        ("two words", '"two words"'),
        ("Zürich", r'"Z\u00fcrich"'),
        ({"a": [1, True]}, '{"a": [1, true]}'),
    ],
)
def test_values_are_written_as_json(value: Any, written: str) -> None:
    assert override_options({"SimulationName": value}) == ["-o", f"SimulationName={written}"]


@pytest.mark.parametrize("text", ["a,b", 'a\\",b', ",", '"'])
def test_no_text_holds_a_comma_which_would_end_the_option(text: str) -> None:
    _, option = override_options({"SimulationName": text})
    assert "," not in option
    assert json.loads(option.partition("=")[2]) == text


def test_paths_are_left_as_they_are() -> None:
    options = override_options({"EngineConfigs.EngineName:x.MQTTBroker": "h:1", "EngineConfigs.0.EngineTimestep": 0.02})
    assert options == ["-o", 'EngineConfigs.EngineName:x.MQTTBroker="h:1"', "-o", "EngineConfigs.0.EngineTimestep=0.02"]


def test_every_data_transfer_engine_is_told_where_to_publish() -> None:
    transfer = {"EngineType": "datatransfer_grpc_engine"}
    engines = [
        {"EngineName": "a.b", **transfer},
        {"EngineName": "camera", "EngineType": "gazebo_grpc"},
        {"EngineName": "c", **transfer, "MQTTBroker": "elsewhere:1", "simulationID": 3},
    ]
    configuration = SimulationConfiguration.model_validate({"EngineConfigs": engines})
    assert data_transfer_overrides(configuration.of_simulation(7, "lab", "bus:1883")) == {
        "EngineConfigs.0.simulationID": "7",
        "EngineConfigs.0.MQTTBroker": "bus:1883",
        "EngineConfigs.0.MQTTPrefix": "lab",
        "EngineConfigs.2.simulationID": "7",
        "EngineConfigs.2.MQTTBroker": "bus:1883",
        "EngineConfigs.2.MQTTPrefix": "lab",
    }
