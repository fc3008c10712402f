"""`nrp doctor`: finds what runs, and says what is wrong with it."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from nrp_cli.main import app
from tests.e2e.conftest import RunningStack, end_stack, start_stack
from tests.e2e.experiments import experiment
from tests.e2e.test_nrp_up import family_of, of_service, still_running
from tests.ports import free_port
from tests.waiting import wait_until

FORBIDDEN_WORDS = ("Traceback", "Exception")


def examined(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    ended = CliRunner().invoke(app, ["doctor", *arguments], env=environment or {})
    assert not any(word in ended.output for word in FORBIDDEN_WORDS), ended.output
    return ended


def findings(*arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    ended = examined("--json", *arguments, environment=environment)
    report: dict[str, Any] = json.loads(ended.stdout)
    assert report["healthy"] == (ended.exit_code == 0)
    return report


def of(report: dict[str, Any], area: str, verdict: str | None = None) -> list[dict[str, str]]:
    return [each for each in report["findings"] if each["area"] == area and verdict in (None, each["verdict"])]


def bad(report: dict[str, Any]) -> list[dict[str, str]]:
    """Of the backend, not of the machine that the tests run on."""
    return [
        each
        for each in report["findings"]
        if each["verdict"] in ("warning", "problem") and each["area"] not in ("This machine", "Simulators")
    ]


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack with room for one simulation."""
    running = start_stack(tmp_path_factory.mktemp("doctor"), "mosquitto", "--capacity", "1")
    yield running
    end_stack(running)


def test_a_stack_that_is_well_is_found_by_its_data_folder_and_has_no_problem(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("broker", "gateway"):
        monkeypatch.setattr(f"nrp_cli.doctor.{part}.SLOW_S", 5.0)  # other tests run meanwhile
    before = {each["uuid"] for each in stack.get("/storage/experiments").json()}
    report = findings("--data", str(stack.data))
    assert bad(report) == []
    ok = {(each["area"], each["name"]) for each in report["findings"] if each["verdict"] == "ok"}
    assert ok >= {
        ("Broker", "MQTT 5"), ("Broker", "MQTT 3.1.1"), ("Broker", "WebSocket"), ("Broker", "round trip"),
        ("Broker", "retained messages"), ("Gateway", "REST API"), ("Gateway", "version"), ("Gateway", "ready"),
        ("Catalogue", "catalogue"), ("Storage", "identity"), ("Storage", "files"),
    }  # fmt: skip
    assert {each["name"].split()[0] for each in of(report, "Launchers", "ok")} == {"launcher", "clock", "disk"}
    assert {each["name"] for each in of(report, "Simulators", "ok")} >= {"mujoco", "gymnasium", "nest-simulator"}
    assert {each["uuid"] for each in stack.get("/storage/experiments").json()} == before


def test_it_leaves_nothing_on_the_broker(stack: RunningStack) -> None:
    import paho.mqtt.client as mqtt

    findings("--data", str(stack.data))
    heard: list[str] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _userdata, message: heard.append(message.topic)
    host, _, port = stack.mqtt.partition(":")
    client.connect(host, int(port))
    client.subscribe("#")
    client.loop_start()
    wait_until(lambda: any("presence" in topic for topic in heard))
    client.disconnect()
    client.loop_stop()
    assert not [topic for topic in heard if "doctor" in topic]


def test_for_people_it_prints_areas_and_a_sum(stack: RunningStack) -> None:
    lines = examined("--data", str(stack.data)).output.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:-1] == [
        "This machine", "Broker", "Gateway", "Catalogue", "Storage", "Launchers", "Simulators",
    ]  # fmt: skip
    assert "problem" in lines[-1]


def test_a_full_launcher_is_a_warning_with_what_to_do(own_stack: RunningStack) -> None:
    number = own_stack.post("/simulation", {"experimentID": experiment(own_stack)}).json()["simulationID"]
    try:
        report = findings("--data", str(own_stack.data))
        (full,) = of(report, "Launchers", "warning")
        assert "1 of 1" in full["message"]
        assert "NRP_CAPACITY" in full["advice"]
    finally:
        own_stack.put_state(number, "stopped")


def test_a_launcher_that_hangs_is_a_problem(own_stack: RunningStack) -> None:
    launcher = of_service(family_of(own_stack), "launcher")
    launcher.send_signal(signal.SIGSTOP)
    try:
        report = findings("--data", str(own_stack.data))
    finally:
        launcher.send_signal(signal.SIGCONT)
    assert "does not answer" in of(report, "Launchers", "problem")[0]["message"]


def test_a_broker_that_is_not_where_it_is_said_to_be_is_a_problem(own_stack: RunningStack) -> None:
    report = findings("--data", str(own_stack.data), "--broker", "127.0.0.1:1")
    (problem,) = of(report, "Broker")
    assert (problem["verdict"], "127.0.0.1:1" in problem["message"]) == ("problem", True)
    assert "nrp up" in problem["advice"]
    assert of(report, "Gateway", "problem") == []  # which has found another one


def test_a_gateway_alone_is_enough_to_be_named(own_stack: RunningStack, tmp_path: Path) -> None:
    """As on another machine: nothing is known of the broker, and that is no problem."""
    report = findings("--data", str(tmp_path), "--url", own_stack.url, environment={"NRP_MQTT_BROKER_ADDRESS": ""})
    assert of(report, "Gateway", "problem") == []
    assert {each["verdict"] for each in of(report, "Catalogue")} == {"note"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:8090"])
def test_a_gateway_that_is_not_there_is_a_problem(url: str, tmp_path: Path) -> None:
    report = findings("--data", str(tmp_path), "--url", url)
    (problem,) = of(report, "Gateway")
    assert problem["verdict"] == "problem"
    assert url in problem["message"]
    assert "nrp up" in problem["advice"]


def test_another_program_in_its_place_is_recognised(own_stack: RunningStack, tmp_path: Path) -> None:
    websocket = own_stack.websocket.replace("ws://", "http://")
    report = findings("--data", str(tmp_path), "--url", websocket)
    assert of(report, "Gateway", "problem")


@pytest.mark.parametrize("arguments", [["--url", "nonsense"], ["--broker", "a:b:c"], ["--websocket", "http://x"]])
def test_what_is_no_address_is_bad_usage(arguments: list[str], tmp_path: Path) -> None:
    ended = examined("--data", str(tmp_path), *arguments)
    assert ended.exit_code == 2
    assert arguments[1] in ended.stderr


def test_a_stack_that_was_killed_is_missed(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "embedded")
    family = family_of(stack)
    stack.process.kill()
    stack.process.wait()
    end_stack(stack)
    wait_until(lambda: not still_running(family), 30)
    report = findings("--data", str(tmp_path))
    assert "was killed" in of(report, "Gateway", "problem")[0]["message"]
    assert of(report, "Broker", "problem")


def test_a_stack_that_ended_in_order_is_not_missed(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, "embedded")
    end_stack(stack)
    assert list(tmp_path.glob("stack.json")) == []


def test_where_nothing_runs_it_says_so_and_how_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = free_port()
    monkeypatch.setattr("nrp_cli.doctor.targets.DEFAULT_URL", f"http://127.0.0.1:{nowhere}")
    # Should a broker have the usual port, then no launcher of this prefix is there.
    ended = examined("--data", str(tmp_path / "none"), environment={"NRP_MQTT_PREFIX": uuid.uuid4().hex})
    assert ended.exit_code == 0
    assert "nothing runs" in ended.output
    assert "nrp up" in ended.output
    assert "Simulators" in ended.output
    assert "Launchers" not in ended.output
