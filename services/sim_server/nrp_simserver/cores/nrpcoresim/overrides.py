"""Overrides of a configuration, as command line options of NRPCoreSim: `-o EngineConfigs.0.simulationID="7"`.

A path is names joined by dots; a list is entered by index, or by `Field:value` of an entry. Values are JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from nrp_simserver.cores.configuration import DataTransferConfiguration, SimulationConfiguration

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def data_transfer_overrides(configuration: SimulationConfiguration) -> dict[str, Any]:
    """What makes NRPCoreSim's data transfer engines publish where `configuration` says, whatever its file says."""
    overrides: dict[str, Any] = {}
    for index, engine in enumerate(configuration.engines):
        if isinstance(engine, DataTransferConfiguration):
            # By index, not by name: a dot in an engine's name would end the path's step.
            overrides |= {
                f"EngineConfigs.{index}.simulationID": str(engine.simulation_id),
                f"EngineConfigs.{index}.MQTTBroker": engine.broker,
                f"EngineConfigs.{index}.MQTTPrefix": engine.prefix,
            }
    return overrides


def override_options(overrides: Mapping[str, Any]) -> list[str]:
    """The arguments that tell NRPCoreSim these overrides, for a start without a shell."""
    return [argument for path, value in overrides.items() for argument in ("-o", f"{path}={_escaped(value)}")]


def _escaped(value: Any) -> str:
    # NRPCoreSim's option parser takes a comma for the end of the option: inside a text it can be written otherwise.
    return _STRING.sub(lambda text: text[0].replace(",", r"\u002c"), json.dumps(value))
