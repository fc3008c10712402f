"""`POST /simulation`."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any

import pytest

from nrp_common.errors import CommandTimeout
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Refusal, Reply, Request
from nrp_gateway import launches
from tests.fakes import FakeLauncher, created, failed
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until


def test_launch_is_answered_with_the_paused_simulation(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo", "ctxId": "here"})
    body = answer.get_json()
    assert answer.status_code == 201
    assert body | {"creationDate": ""} == {
        "state": "paused",
        "simulationID": body["simulationID"],
        "experimentConfiguration": "simulation_config.json",
        "mainScript": "main_script.py",
        "owner": "default-owner",
        "creationDate": "",
        "experimentID": "demo",
        "ctxId": "here",
        "MQTTPrefix": gateway.topics.prefix,
        "error": None,
        "logs": None,
        "results": None,
        "simulationTime": 0.0,
        "realTime": 0.0,
        "simulationTimeLeft": 0.0,
        "launcher": "fake",
        "queuePosition": None,
        "queueReason": None,
        "limits": dict.fromkeys(["realTime", "simulatedTime", "memoryMB", "cpuTime", "processes", "diskMB"]),
        "stopsAt": None,
    }
    assert type(body["simulationID"]) is int


def test_creation_date_is_iso_8601_with_microseconds_and_offset(
    gateway: RunningGateway, launcher: FakeLauncher
) -> None:
    written = gateway.post("/simulation", {"experimentID": "demo"}).get_json()["creationDate"]
    assert len(written) == len("2026-11-22T11:23:00.631529+01:00")
    assert abs(datetime.fromisoformat(written).timestamp() - time.time()) < 60


def test_launch_means_one_launcher_among_those_of_one_name(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    gateway.post("/simulation", {"experimentID": "demo"})
    assert launcher.launches[-1].instance == launcher.instance


def test_launch_names_the_simulation_in_the_location_header(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert answer.headers["Location"] == f"/simulation/{answer.get_json()['simulationID']}"


def test_launch_hands_over_what_was_asked(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    gateway.post(
        "/simulation",
        {
            "experimentID": "demo",
            "experimentConfiguration": "other.json",
            "mainScript": "scripts/other.py",
            "realTimeFactor": 2,
        },
    )
    launch = launcher.launches[-1]
    assert (launch.experiment_id, launch.configuration, launch.main_script, launch.owner) == (
        "demo", "other.json", "scripts/other.py", "default-owner",
    )  # fmt: skip
    assert launch.wishes.real_time_factor == 2


def test_the_real_time_factor_is_the_configurations_unless_it_is_asked_for(
    gateway: RunningGateway, launcher: FakeLauncher
) -> None:
    gateway.launch()
    assert launcher.launches[-1].wishes.real_time_factor is None


@pytest.mark.parametrize("factor", ['"1"', "true", "-1", "[1]", "1e400", "1" + 400 * "0"])
def test_a_real_time_factor_that_is_none_is_refused(gateway: RunningGateway, factor: str) -> None:
    answer = gateway.post("/simulation", b'{"experimentID": "demo", "realTimeFactor": %s}' % factor.encode())
    assert answer.status_code == 400
    assert answer.get_json()["message"].startswith("realTimeFactor: ")


@pytest.mark.parametrize("extra", [{"state": "started"}, {"private": True}, {"unknown": [1]}])
def test_state_private_and_unknown_fields_have_no_effect(
    gateway: RunningGateway, launcher: FakeLauncher, extra: dict[str, Any]
) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo", **extra})
    assert (answer.status_code, answer.get_json()["state"]) == (201, "paused")


@pytest.mark.parametrize(
    "field", ["experimentConfiguration", "mainScript", "ctxId", "realTimeFactor", "state", "private"]
)
def test_optional_fields_may_be_null(gateway: RunningGateway, launcher: FakeLauncher, field: str) -> None:
    assert gateway.post("/simulation", {"experimentID": "demo", field: None}).status_code == 201


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/x"])
def test_body_is_json_whatever_the_content_type_says(
    gateway: RunningGateway, launcher: FakeLauncher, content_type: str | None
) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo"}, content_type=content_type)
    assert answer.status_code == 201


def test_launch_that_fails_is_answered_with_the_failed_simulation(
    gateway: RunningGateway, launcher: FakeLauncher
) -> None:
    launcher.on_launch = failed
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert answer.status_code == 201
    assert answer.get_json()["state"] == "failed"
    assert answer.get_json()["error"] == "There is no experiment 'demo'"


def test_launch_that_takes_its_time_is_answered_while_created(
    gateway: RunningGateway, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launches.READY_WITHIN_S == 25
    monkeypatch.setattr(launches, "READY_WITHIN_S", 0.1)
    launcher.on_launch = created
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert (answer.status_code, answer.get_json()["state"]) == (201, "created")


def test_launch_waits_for_the_simulation_to_be_ready(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    launcher.on_launch = lambda simulation: threading.Timer(
        0.3, lambda: simulation.end(SimulationState.FAILED, "late")
    ).start()
    assert gateway.post("/simulation", {"experimentID": "demo"}).get_json()["state"] == "failed"


def test_ids_are_never_reused(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    first = gateway.launch()
    gateway.delete(f"/simulation/{first}")
    assert gateway.launch() > first


@pytest.mark.parametrize(
    "experiment_id",
    ["..", ".", "a/..", "../other", "a/b", "/etc", "", "a\0b", "a\nb", "x" * 10_000, "a\\b", "\ud800", 7, True, ["a"]],
)
def test_bad_experiment_id_is_refused_at_once(
    gateway: RunningGateway, launcher: FakeLauncher, experiment_id: object
) -> None:
    asked = len(launcher.launches)
    answer = gateway.post("/simulation", {"experimentID": experiment_id})
    assert answer.status_code == 400
    assert answer.get_json()["type"] == "Client error"
    assert answer.get_json()["message"].startswith("experimentID: ")
    assert len(answer.data) < 1000
    assert len(launcher.launches) == asked


@pytest.mark.parametrize("field", ["experimentConfiguration", "mainScript"])
@pytest.mark.parametrize("name", ["../x.py", "/etc/passwd", "a/../../x", "..", "", "a//b", "a\0b", "..\\x", "y" * 300])
def test_files_outside_the_experiment_are_refused_at_once(
    gateway: RunningGateway, launcher: FakeLauncher, field: str, name: str
) -> None:
    asked = len(launcher.launches)
    answer = gateway.post("/simulation", {"experimentID": "demo", field: name})
    assert answer.status_code == 400
    assert answer.get_json()["message"].startswith(f"{field}: ")
    assert len(launcher.launches) == asked


@pytest.mark.parametrize("context_id", ["a\0b", "\ud800", 7, "x" * 10_000])
def test_context_id_that_is_no_printable_text_is_refused(
    gateway: RunningGateway, launcher: FakeLauncher, context_id: object
) -> None:
    answer = gateway.post("/simulation", {"experimentID": "demo", "ctxId": context_id})
    assert answer.status_code == 400
    assert answer.get_json()["message"].startswith("ctxId: ")


def test_launch_without_room_is_409_with_retry_after_and_leaves_no_record(installation: Installations) -> None:
    installation.launcher(capacity=1)
    gateway = installation.gateway()
    gateway.await_launcher()
    running = gateway.launch()
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert answer.status_code == 409
    assert answer.get_json()["type"] == "Client error"
    assert "'fake': all 1 places are taken" in answer.get_json()["message"]
    assert f"Try again in {answer.headers['Retry-After']} s" in answer.get_json()["message"]
    assert [each["simulationID"] for each in gateway.get("/simulation").get_json()] == [running]


def test_launch_without_launcher_is_503_and_leaves_no_record(installation: Installations) -> None:
    gateway = installation.gateway()
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert answer.status_code == 503
    assert answer.get_json() == {"message": "No launcher is connected", "type": "Server Error", "data": None}
    assert int(answer.headers["Retry-After"]) > 0
    assert gateway.get("/simulation").get_json() == []


def test_launch_that_no_launcher_answers_is_503_and_leaves_no_record(
    installation: Installations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "TAKEN_WITHIN_S", 0.3)
    launcher = installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    launcher.is_silent = True
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert answer.status_code == 503
    assert "'fake': it does not answer" in answer.get_json()["message"]
    assert gateway.get("/simulation").get_json() == []


def test_launch_that_was_taken_in_time_is_not_given_up_because_the_answer_is_late(
    installation: Installations, monkeypatch: pytest.MonkeyPatch, always_in_time: None
) -> None:
    monkeypatch.setattr(launches, "TAKEN_WITHIN_S", 0.3)
    monkeypatch.setattr(launches, "UNDER_WAY_S", 20.0)
    monkeypatch.setattr(launches, "READY_WITHIN_S", 0.1)
    launcher = installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    launcher.answers_late, launcher.on_launch = True, created
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert (answer.status_code, answer.get_json()["state"]) == (201, "created")


def test_launch_whose_acceptance_was_lost_is_ended_by_a_verdict(
    installation: Installations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "TAKEN_WITHIN_S", 0.3)
    launcher = installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    verdicts: list[bytes] = []
    launcher.bus.subscribe(launcher.topics.each_simulation("lifecycle"), lambda _, payload: verdicts.append(payload))
    launcher.is_silent = True
    gateway.post("/simulation", {"experimentID": "demo"})
    wait_until(lambda: verdicts and b'"target_state":"failed"' in verdicts[0])


def test_launch_whose_acceptance_was_lost_is_answered_when_the_simulation_itself_reports(
    installation: Installations, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()

    def request(topic: str, launch: Request, **_: object) -> Reply:
        gateway.gateway.bus.tell(topic, launch)
        wait_until(lambda: [each.state for each in gateway.gateway.mirror.live_and_recent()] == ["paused"])
        raise CommandTimeout("the answer was lost")

    monkeypatch.setattr(gateway.gateway.bus, "request", request)
    launcher.loses_answers = True
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert (answer.status_code, answer.get_json()["state"]) == (201, "paused")
    assert list(launcher.simulations) == [answer.get_json()["simulationID"]]


def test_launch_goes_to_another_launcher_when_the_first_refuses(installation: Installations) -> None:
    refusing = installation.launcher(name="roomy", capacity=9)
    refusing.refusal = Reply(error="its disk is full", refusal=Refusal.FAILED)
    installation.launcher(name="small", capacity=2)
    gateway = installation.gateway()
    wait_until(lambda: gateway.gateway.presences.capacity == 11)
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert (answer.status_code, answer.get_json()["launcher"]) == (201, "small")
    assert len(refusing.launches) == 1
    assert len(gateway.get("/simulation").get_json()) == 1


def test_launch_goes_to_the_launcher_with_most_room(installation: Installations) -> None:
    installation.launcher(name="a", capacity=2)
    installation.launcher(name="b", capacity=5)
    gateway = installation.gateway()
    wait_until(lambda: gateway.gateway.presences.capacity == 7)
    assert gateway.post("/simulation", {"experimentID": "demo"}).get_json()["launcher"] == "b"


def test_more_waiting_launches_than_threads_can_bear_are_503(
    gateway: RunningGateway, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.gateway.launches, "_places", threading.BoundedSemaphore(1))
    launcher.on_launch = created
    waiting = threading.Thread(target=gateway.launch)
    taken = len(launcher.simulations)
    waiting.start()
    wait_until(lambda: len(launcher.simulations) > taken)
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert (answer.status_code, answer.get_json()["type"]) == (503, "Server Error")
    assert "Retry-After" in answer.headers
    launcher.end_all()
    waiting.join()
