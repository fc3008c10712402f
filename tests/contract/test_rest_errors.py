"""Errors: their bodies, and the order in which they are found. And CORS, without which no browser sees them."""

from __future__ import annotations

import json

import pytest

from nrp_common.lifecycle import SimulationState
from nrp_gateway.bodies import LARGEST_BODY
from tests.fakes import FakeLauncher, FakeSimulation
from tests.gateways import Installations, RunningGateway

NOT_FOUND = {"message": "The simulation with the given ID was not found", "type": "Client error", "data": None}

ID_THAT_IS_NONE = ["999999", "-1", "abc", "1.0", "0x1", "9" * 19, "9" * 40, "%20", "²", "1%00"]


@pytest.mark.parametrize("simulation_id", ID_THAT_IS_NONE)
@pytest.mark.parametrize(
    ("method", "leaf"),
    [
        ("GET", ""), ("GET", "/state"), ("PUT", "/state"), ("POST", "/reset"), ("POST", "/step"), ("GET", "/logs"),
        ("GET", "/results"), ("DELETE", ""),
    ],
)  # fmt: skip
def test_no_such_simulation_is_404(gateway: RunningGateway, simulation_id: str, method: str, leaf: str) -> None:
    answer = gateway.call(method, f"/simulation/{simulation_id}{leaf}")
    assert (answer.status_code, answer.get_json()) == (404, NOT_FOUND)
    assert answer.content_type == "application/json"


@pytest.mark.parametrize("path", ["/nothing", "/simulations", "/simulation/1/other", "/slot", "/%2e%2e/etc", "//"])
def test_unknown_path_is_404_in_json(gateway: RunningGateway, path: str) -> None:
    answer = gateway.get(path)
    assert answer.status_code == 404
    assert answer.content_type == "application/json"
    assert answer.get_json()["type"] == "Client error"


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/simulation"), ("PUT", "/simulation"), ("POST", "/simulation/1/state")]
)
def test_wrong_method_is_405_in_json_that_says_which_are_right(gateway: RunningGateway, method: str, path: str) -> None:
    answer = gateway.call(method, path)
    assert answer.status_code == 405
    assert answer.get_json()["type"] == "Client error"
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"not JSON", b"\xff\xfe", b'{"state": NaN}', b"[" * 100_000, b'"x"', b"[]", b"7", b"null"]
)
def test_body_that_is_no_json_object_is_400(gateway: RunningGateway, simulation: FakeSimulation, body: bytes) -> None:
    for method, path in (("POST", "/simulation"), ("PUT", f"/simulation/{simulation.id}/state")):
        answer = gateway.call(method, path, body)
        assert answer.status_code == 400
        assert answer.get_json()["type"] == "Client error"
        assert answer.get_json()["message"].startswith("The body is not ")


@pytest.mark.parametrize("body", [{}, {"experimentID": None}, {"experimentId": "wrong case"}])
def test_missing_experiment_is_named(gateway: RunningGateway, launcher: FakeLauncher, body: object) -> None:
    answer = gateway.post("/simulation", body)
    assert answer.status_code == 400
    assert answer.get_json() == {"message": "experimentID not given.", "type": "Client error", "data": None}


def test_body_that_is_too_large_is_413(gateway: RunningGateway) -> None:
    answer = gateway.post("/simulation", b" " * (LARGEST_BODY + 1))
    assert (answer.status_code, answer.get_json()["type"]) == (413, "Client error")


def test_final_comes_before_json(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    simulation.end(SimulationState.STOPPED)
    gateway.await_state(simulation.id, "stopped")
    assert "finalized" in gateway.put(f"/simulation/{simulation.id}/state", b"no JSON").get_json()["message"]


def test_unknown_state_comes_before_the_transition(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    answer = gateway.ask_state(simulation.id, "completed")
    assert answer.get_json()["message"] == "Invalid state requested: (completed)"


def test_unexpected_error_says_nothing_of_the_inside(
    installation: Installations, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = installation.gateway(secret_key="the-secret-key")

    def fail(_simulation_id: int) -> None:
        raise RuntimeError("the-secret-key is here, at line 7")

    monkeypatch.setattr(gateway.gateway.mirror, "get", fail)
    answer = gateway.get("/simulation/1")
    assert answer.status_code == 500
    assert answer.content_type == "application/json"
    assert answer.get_json()["type"] == "General error"
    assert "secret" not in answer.text
    assert "line" not in answer.text


def test_error_bodies_have_three_fields(gateway: RunningGateway) -> None:
    for method, path, body in (
        ("GET", "/nothing", None), ("GET", "/simulation/999999", None), ("POST", "/simulation", b"{"),
        ("PATCH", "/simulation", None), ("GET", "/simulation?limit=x", None),
    ):  # fmt: skip
        answer = gateway.call(method, path, body)
        assert set(answer.get_json()) == {"message", "type", "data"}


# -- CORS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method"), [("/simulation", "POST"), ("/simulation/1/state", "PUT"), ("/slot/0/simulation", "GET")]
)
def test_preflight_allows_the_authorization_header(gateway: RunningGateway, path: str, method: str) -> None:
    answer = gateway.call(
        "OPTIONS",
        path,
        headers={
            "Origin": "http://frontend.example:9000",
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "http://frontend.example:9000")
    assert method in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "content-type" in allowed


@pytest.mark.parametrize("path", ["/simulation", "/simulation/999999", "/nothing", "/health"])
def test_answers_and_errors_can_be_read_by_other_origins(gateway: RunningGateway, path: str) -> None:
    answer = gateway.get(path, headers={"Origin": "http://frontend.example:9000"})
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "http://frontend.example:9000")
    assert "Location" in answer.headers["Access-Control-Expose-Headers"]


def test_unexpected_errors_can_be_read_by_other_origins(
    installation: Installations, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = installation.gateway()
    monkeypatch.setattr(gateway.gateway, "readiness", lambda: json.loads("no JSON"))
    answer = gateway.get("/ready", headers={"Origin": "http://frontend.example:9000"})
    assert answer.status_code == 500
    assert "Access-Control-Allow-Origin" in answer.headers


def test_origins_can_be_named(installation: Installations) -> None:
    gateway = installation.gateway(cors_origins="http://a.example, http://b.example")
    assert gateway.get("/health", headers={"Origin": "http://b.example"}).headers["Access-Control-Allow-Origin"] == (
        "http://b.example"
    )
    assert "Access-Control-Allow-Origin" not in gateway.get("/health", headers={"Origin": "http://c.example"}).headers
