"""Ids of requests and W3C traces: taken from the HTTP call, told in the answer, handed on over the bus."""

from __future__ import annotations

import json
import logging

import pytest

from nrp_common import tracing
from nrp_common.messages import Refusal, Reply
from tests.fakes import FakeLauncher, FakeSimulation
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_an_answer_names_the_request_as_its_client_did(gateway: RunningGateway) -> None:
    answer = gateway.get("/simulation", headers={"X-Request-ID": "client-7:a/b"})
    assert answer.headers["X-Request-ID"] == "client-7:a/b"


def test_a_request_without_an_id_gets_one_of_its_own(gateway: RunningGateway) -> None:
    ids = {gateway.get("/health").headers["X-Request-ID"] for _ in range(3)}
    assert len(ids) == 3
    assert all(tracing.request_id_in(each) for each in ids)


@pytest.mark.parametrize("given", ["with blank", "x" * 129, '{"level":"error"}', ""])
def test_an_id_that_could_forge_a_log_line_is_replaced(gateway: RunningGateway, given: str) -> None:
    answer = gateway.get("/health", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] != given
    assert tracing.request_id_in(answer.headers["X-Request-ID"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/simulation/999999", 404),
        ("PATCH", "/simulation", 405),
        ("POST", "/simulation", 400),
        ("GET", "/slot/99999/simulation", 404),
        ("OPTIONS", "/simulation", 200),
    ],
)
def test_errors_and_preflights_have_an_id_too(
    gateway: RunningGateway, launcher: FakeLauncher, method: str, path: str, status: int
) -> None:
    answer = gateway.call(method, path, headers={"X-Request-ID": "mine", "Origin": "http://frontend"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (status, "mine")


def test_pages_of_other_origins_may_read_it(gateway: RunningGateway) -> None:
    answer = gateway.get("/health", headers={"Origin": "http://frontend"})
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


def test_a_launch_goes_to_the_launcher_with_id_and_trace(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    answer = gateway.post(
        "/simulation", {"experimentID": "demo"}, headers={"X-Request-ID": "launch-1", "traceparent": TRACE}
    )
    assert answer.status_code == 201
    launch = launcher.launches[-1]
    assert (launch.request_id, launch.traceparent) == ("launch-1", TRACE)


def test_a_command_goes_to_the_server_with_id_and_trace(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    gateway.ask_state(simulation.id, "started", headers={"X-Request-ID": "start-1", "traceparent": TRACE})
    gateway.ask_state(simulation.id, "paused", headers={"X-Request-ID": "pause-1", "traceparent": "nonsense"})
    told = [(command.request_id, command.traceparent) for command in simulation.commands]
    assert told == [("start-1", TRACE), ("pause-1", "")]


def test_a_queued_launch_keeps_its_own_id_whoever_gives_it_away(installation: Installations) -> None:
    """Given away in the gateway's own time, and by another gateway that finds it in the catalogue."""
    gateway, launcher = installation.gateway(), installation.launcher(capacity=1)
    gateway.await_launcher()
    first = gateway.launch()
    waiting = gateway.post(
        "/simulation",
        {"experimentID": "demo", "queue": True},
        headers={"X-Request-ID": "waiting-1", "traceparent": TRACE},
    )
    assert waiting.get_json()["state"] == "created"
    installation.end(gateway)
    other = installation.gateway()
    other.await_launcher()
    other.ask_state(first, "stopped", headers={"X-Request-ID": "stop-1"})
    wait_until(lambda: waiting.get_json()["simulationID"] in launcher.simulations)
    launch = launcher.launches[-1]
    assert (launch.request_id, launch.traceparent) == ("waiting-1", TRACE)


def test_the_log_says_whose_launch_and_command_it_was(
    gateway: RunningGateway, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"X-Request-ID": "log-1", "traceparent": TRACE}
    number = gateway.post("/simulation", {"experimentID": "demo"}, headers=headers).get_json()["simulationID"]
    gateway.ask_state(number, "started", headers=headers)
    records = {record.msg["event"]: record.msg for record in caplog.records if isinstance(record.msg, dict)}
    expected = {"simulation": number, "owner": "default-owner", "request_id": "log-1", "traceparent": TRACE}
    assert records["Launched"].items() >= expected.items()
    assert records["Commanded"].items() >= {**expected, "command": "started", "state": "started"}.items()


def test_a_failed_request_is_logged_with_its_id_and_without_its_token(
    gateway: RunningGateway, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    launcher.refusal = Reply(error="its disk is full", refusal=Refusal.FAILED)
    headers = {"X-Request-ID": "failed-1"}
    answer = gateway.post("/simulation", {"experimentID": "demo"}, token="a-secret-token", headers=headers)
    assert answer.status_code == 503
    (record,) = (each.msg for each in caplog.records if isinstance(each.msg, dict) and "status" in each.msg)
    assert record.items() >= {"request_id": "failed-1", "status": 503, "method": "POST", "path": "/simulation"}.items()
    assert record["reason"] == answer.get_json()["message"]
    assert "a-secret-token" not in json.dumps([str(each.msg) for each in caplog.records])


def test_an_unexpected_error_tells_the_client_what_to_look_for(
    gateway: RunningGateway, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Reply:
        raise RuntimeError("nobody expects this")

    monkeypatch.setattr(gateway.gateway.mirror, "live_and_recent", fail)
    answer = gateway.get("/simulation", headers={"X-Request-ID": "look-for-me"})
    assert answer.status_code == 500
    assert "look-for-me" in answer.get_json()["message"]
    assert "nobody expects this" not in answer.text
