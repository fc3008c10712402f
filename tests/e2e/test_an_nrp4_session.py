"""A whole session of an NRP 4 client and frontend against `nrp up`."""

from __future__ import annotations

import io
import itertools
import re
import zipfile

import requests

from tests.e2e.conftest import RunningStack
from tests.e2e.experiments import failed, the_report
from tests.e2e.websocket_frontend import Frontend


def launch(stack: RunningStack, experiment: str) -> int:
    answer = stack.post("/simulation", {"experimentID": experiment, "state": "paused", "ctxId": None, "private": True})
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert answer.headers["Location"] == f"/simulation/{record['simulationID']}"
    assert record["state"] == "paused", record
    number: int = record["simulationID"]
    return number


def test_an_experiment_runs_from_launch_to_stored_logs(stack: RunningStack, frontend: Frontend) -> None:
    number = launch(stack, "two_engines")
    assert stack.put_state(number, "started").json() == {"state": "started"}
    frontend.wait_for_state(number, "completed")
    assert stack.put_state(number, "stopped").json() == {"state": "stopped"}
    record = stack.get(f"/simulation/{number}").json()
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d_simulation_{number}\.log\.zip", record["logs"])
    stored = [entry["name"] for entry in stack.get("/storage/two_engines").json()]
    assert record["logs"] in stored
    archive = zipfile.ZipFile(io.BytesIO(stack.get(f"/storage/two_engines/{record['logs']}?byname=true").content))
    assert f"simulation_{number}.log" in archive.namelist()
    assert stack.get(f"/simulation/{number}/logs").content[:2] == b"PK"


def test_the_frontend_sees_every_transition_in_order(stack: RunningStack, frontend: Frontend) -> None:
    number = launch(stack, "two_engines")
    stack.put_state(number, "started")
    frontend.wait_for_state(number, "completed")
    stack.put_state(number, "stopped")
    frontend.wait_for_state(number, "stopped")
    messages = frontend.of(f"nrp_simulation/{number}/lifecycle")
    assert [message["event"] for message in messages] == ["initialized", "started", "completed", "stopped"]
    assert [message["seq"] for message in messages] == sorted(message["seq"] for message in messages)
    for before, after in itertools.pairwise(messages):
        assert after["source_state"] == before["target_state"]


def test_status_carries_four_finite_fields_or_progress(stack: RunningStack, frontend: Frontend) -> None:
    number = launch(stack, "two_engines")
    stack.put_state(number, "started")
    frontend.wait_for_state(number, "completed")
    stack.put_state(number, "stopped")
    frontend.wait_for_state(number, "stopped")
    for status in frontend.of(f"nrp_simulation/{number}/status"):
        if "progress" in status:
            assert "state" not in status
            continue
        assert set(status) == {"realTime", "simulationTime", "state", "simulationTimeLeft"}
        assert all(isinstance(status[key], float | int) for key in set(status) - {"state"})


def test_a_fault_in_a_function_is_shown_with_its_place(stack: RunningStack, frontend: Frontend) -> None:
    number = launch(stack, "failing_function")
    stack.put_state(number, "started")
    frontend.wait_for_state(number, "failed")
    report = the_report(frontend, number)
    assert report["sim_id"] == str(number)
    assert report["error_type"] == "Runtime"
    assert report["line_number"] > 0
    assert report["line_text"].strip()
    assert report["fileName"].endswith(".py")
    record = failed(stack, number)
    assert report["fileName"] in record["error"]
    assert record["logs"]


def test_pausing_stops_the_simulated_clock_and_starting_resumes_it(stack: RunningStack) -> None:
    number = launch(stack, "two_engines")
    assert stack.post(f"/simulation/{number}/step", {"iterations": 3}).json() == {"state": "paused"}
    before = stack.get(f"/simulation/{number}").json()["simulationTime"]
    assert before > 0
    assert stack.post(f"/simulation/{number}/step", {"iterations": 1}).json() == {"state": "paused"}
    after = stack.get(f"/simulation/{number}").json()["simulationTime"]
    assert round(after / before, 6) == round(4 / 3, 6)
    assert stack.post(f"/simulation/{number}/reset").json() == {"state": "paused"}
    assert stack.get(f"/simulation/{number}").json()["simulationTime"] == 0
    assert delete(stack, number) == 204
    assert stack.get(f"/simulation/{number}").status_code == 404


def delete(stack: RunningStack, number: int) -> int:
    return requests.delete(f"{stack.url}/simulation/{number}", timeout=40).status_code


def test_several_simulations_run_at_once(stack: RunningStack, frontend: Frontend) -> None:
    numbers = [launch(stack, "two_engines") for _ in range(3)]
    for number in numbers:
        stack.put_state(number, "started")
    for number in numbers:
        frontend.wait_for_state(number, "completed")
    for number in numbers:
        assert stack.put_state(number, "stopped").status_code == 200


def test_a_full_server_says_when_to_come_back(stack: RunningStack) -> None:
    numbers: list[int] = []
    try:
        while len(numbers) < 8:
            numbers.append(launch(stack, "two_engines"))
        refused = stack.post("/simulation", {"experimentID": "two_engines"})
        assert refused.status_code == 409
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["type"] == "Client error"
    finally:
        for number in numbers:
            stack.put_state(number, "stopped")
