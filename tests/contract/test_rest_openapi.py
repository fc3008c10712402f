"""Whatever is sent, what comes back is what the OpenAPI document says, and never an error of the server's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nrp_common.bus import BrokerAddress
from nrp_gateway.app import openapi_document
from tests.gateways import Installations

EXAMPLES_A_ROUTE = 25

LAUNCHED = 20

OPERATIONS = sorted(
    (
        (method, path, operation)
        for path, operations in openapi_document()["paths"].items()
        for method, operation in operations.items()
    ),
    key=lambda operation: operation[0] == "delete",  # last: the others need simulations
)


def can_be_invalid(operation: dict[str, Any]) -> bool:
    """Whether there is a body or a query that can be other than documented."""
    return "requestBody" in operation or any(each["in"] == "query" for each in operation.get("parameters", []))


@pytest.fixture(scope="module")
def api(broker: BrokerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    """The document of a gateway with some simulations."""
    installation = Installations(broker, tmp_path_factory.mktemp("openapi"))
    installation.launcher(capacity=500)
    gateway = installation.gateway()
    gateway.await_launcher()
    for _ in range(LAUNCHED):
        simulation_id = gateway.launch()
        if simulation_id % 3 == 0:
            gateway.ask_state(simulation_id, "started")
        if simulation_id % 5 == 0:
            gateway.ask_state(simulation_id, "stopped")
    yield schemathesis.openapi.from_wsgi("/openapi", gateway.app)
    installation.close()


def call_and_check(api: BaseSchema, method: str, path: str, mode: GenerationMode) -> None:
    @given(case=api[path][method].as_strategy(generation_mode=mode), simulation_id=st.integers(1, LAUNCHED + 1))
    @settings(
        max_examples=EXAMPLES_A_ROUTE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: schemathesis.Case, simulation_id: int) -> None:
        if "simulation_id" in case.path_parameters:
            case.path_parameters["simulation_id"] = simulation_id
        checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
        case.call_and_validate(checks=checks)

    call()


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in OPERATIONS])
def test_valid_requests_are_answered_as_documented(api: BaseSchema, method: str, path: str) -> None:
    call_and_check(api, method, path, GenerationMode.POSITIVE)


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, path, operation in OPERATIONS if can_be_invalid(operation)]
)
def test_invalid_requests_are_answered_as_documented(api: BaseSchema, method: str, path: str) -> None:
    call_and_check(api, method, path, GenerationMode.NEGATIVE)
