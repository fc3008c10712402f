"""The payloads on the bus; what frontends read is fixed by section 2 of the NRP 4 contract."""

from __future__ import annotations

import json
import time

import pytest

from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import (
    ArchiveKind,
    Archives,
    Collect,
    Command,
    CommandEvent,
    ErrorType,
    FailedStatus,
    Launch,
    LauncherPresence,
    LifecycleMessage,
    Message,
    Progress,
    Refusal,
    Reply,
    RuntimeErrorReport,
    ServerPresence,
    Status,
    Task,
    TaskDone,
)

SOON = 2_000_000_000.0

MESSAGES: list[Message] = [
    Status(real_time=0.312, simulation_time=2.07, state=SimulationState.STARTED, simulation_time_left=597.93),
    FailedStatus(state=SimulationState.FAILED, error="why"),
    Progress(progress=Task(task="Shutting down")),
    Progress(progress=TaskDone(task="Shutting down")),
    RuntimeErrorReport(sim_id="1", msg="m", error_type=ErrorType.COMPILE, file_name="main_script.py", line_number=2),
    LifecycleMessage(
        source_node="nrp_simulation_server_7",
        source_state=SimulationState.PAUSED,
        event=SimulationEvent.STARTED,
        target_state=SimulationState.STARTED,
        seq=3,
    ),
    Archives(logs="a.log.zip"),
    ServerPresence(online=True, simulation_id=3),
    LauncherPresence(online=True, capacity=2, labels=["gpu"]),
    Command(event=CommandEvent.STEP, iterations=3, deadline=SOON),
    Launch(simulation_id=1, experiment_id="e", configuration="c", main_script="m", owner="o", deadline=SOON),
    Collect(simulation_id=1, kind=ArchiveKind.LOGS, deadline=SOON),
    Reply(state=SimulationState.PAUSED, seq=4),
    Reply(error="full", refusal=Refusal.FULL),
]


def as_dict(message: Message) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(message.to_json())
    return decoded


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    assert type(message).from_json(message.to_json()) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{", b"\xff", b'"text"', b"1", b"{}" * 2])
def test_what_is_no_message_is_none(message: Message, payload: bytes) -> None:
    assert type(message).from_json(payload) is None


def test_fields_of_newer_versions_are_ignored() -> None:
    assert ServerPresence.from_json(b'{"online": true, "mood": "good"}') == ServerPresence(online=True)


def test_a_status_is_as_frontends_read_it() -> None:
    assert as_dict(MESSAGES[0]) == {
        "realTime": 0.312,
        "simulationTime": 2.07,
        "state": "started",
        "simulationTimeLeft": 597.93,
    }


def test_times_of_a_status_are_finite() -> None:
    for time_left in ("NaN", "Infinity", "1e999"):
        assert Status.from_json(b'{"state": "started", "simulationTimeLeft": %s}' % time_left.encode()) is None


def test_progress_is_as_frontends_read_it() -> None:
    assert as_dict(Progress(progress=Task(task="Shutting down"))) == {
        "progress": {
            "task": "Shutting down",
            "subtask": "",
            "number_of_subtasks": 0,
            "subtask_index": 0,
            "block_ui": True,
        }
    }
    assert as_dict(Progress(progress=TaskDone(task="Shutting down"))) == {
        "progress": {"task": "Shutting down", "done": True}
    }


def test_a_runtime_error_is_as_frontends_read_it() -> None:
    report = RuntimeErrorReport(
        sim_id="11",
        msg="NameError in main script (Line 2): name 'x' is not defined",
        error_type=ErrorType.COMPILE,
        file_name="main_script.py",
        line_number=2,
        line_text="print(x)",
    )
    assert as_dict(report) == {
        "sim_id": "11",
        "msg": "NameError in main script (Line 2): name 'x' is not defined",
        "error_type": "Compile",
        "fileName": "main_script.py",
        "line_number": 2,
        "offset": -1,
        "line_text": "print(x)",
    }


def test_a_transition_has_the_fields_of_nrp_4() -> None:
    assert (
        as_dict(MESSAGES[5]).items()
        >= {
            "source_node": "nrp_simulation_server_7",
            "source_state": "paused",
            "event": "started",
            "target_state": "started",
        }.items()
    )


def test_a_transition_of_nrp_4_is_understood() -> None:
    message = LifecycleMessage.from_json(
        b'{"source_node": "n", "source_state": "paused", "event": "started", "target_state": "started"}'
    )
    assert message is not None
    assert (message.incarnation, message.seq) == ("", 0)


def test_a_request_is_late_after_its_deadline() -> None:
    assert Command(event=CommandEvent.STARTED, deadline=time.time() - 0.001).is_late
    assert not Command(event=CommandEvent.STARTED, deadline=time.time() + 10).is_late


@pytest.mark.parametrize(
    "payload",
    [
        {"deadline": SOON},
        {"event": "started"},
        {"event": "completed", "deadline": SOON},
        {"event": "step", "iterations": 0, "deadline": SOON},
    ],
)
def test_a_command_that_cannot_be_is_none(payload: dict[str, object]) -> None:
    assert Command.from_json(json.dumps(payload).encode()) is None


def test_an_acknowledgement_is_not_the_last_answer() -> None:
    assert not Reply().is_last
    assert Reply(state=SimulationState.PAUSED).is_last
    assert Reply(archive="").is_last
    assert Reply(error="").is_last
