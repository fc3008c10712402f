"""What is said of a simulation that waits in a cluster's queue."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from nrp_common.bus import Bus
from nrp_common.messages import IDLE, IdleWarning, NodeQueue, Progress, Task, TaskDone
from nrp_simserver.launcher import queue_notice
from nrp_simserver.launcher.queue_notice import QueueNotice
from nrp_simserver.placement.placement import QueuePlace
from tests.fakes import FakeBus

TOPIC = "nrp_simulation/1/status"


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
def notice(bus: FakeBus) -> QueueNotice:
    return QueueNotice(cast(Bus, bus), TOPIC)


def said(bus: FakeBus) -> list[dict[str, Any]]:
    return [json.loads(payload)["progress"] for payload in bus.said.get(TOPIC, [])]


def test_it_is_said_when_it_is_new(bus: FakeBus, notice: QueueNotice) -> None:
    for place in (QueuePlace("Priority", 2, 3), QueuePlace("Priority", 2, 3), QueuePlace("Resources", 1, 3)):
        notice.tell(place)
    assert said(bus) == [
        {
            "task": "Waiting for a node",
            "subtask": f"Position {position} of 3 in the queue: {reason}",
            "number_of_subtasks": 3,
            "subtask_index": position - 1,
            "block_ui": False,
            "queuePosition": position,
            "queueReason": reason,
        }
        for position, reason in ((2, "Priority"), (1, "Resources"))
    ]


def test_it_is_said_again_after_a_while(bus: FakeBus, notice: QueueNotice, monkeypatch: pytest.MonkeyPatch) -> None:
    notice.tell(QueuePlace("Priority"))
    monkeypatch.setattr(queue_notice, "TOLD_AGAIN_S", 0.0)
    notice.tell(QueuePlace("Priority"))
    assert [each["subtask"] for each in said(bus)] == ["Priority", "Priority"]


def test_what_was_not_said_is_not_taken_back(bus: FakeBus, notice: QueueNotice) -> None:
    notice.take_back()
    assert not said(bus)
    notice.tell(QueuePlace("Priority"))
    notice.take_back()
    notice.take_back()
    assert said(bus)[1:] == [{"task": "Waiting for a node", "done": True}]


@pytest.mark.parametrize(
    "progress",
    [
        NodeQueue(queue_reason="Priority", queue_position=2),
        NodeQueue(queue_reason=""),
        IdleWarning(stops_at=1.0),
        Task(task="Initializing"),
        TaskDone(task=IDLE),
    ],
)
def test_each_kind_of_progress_is_read_as_what_it_is(progress: NodeQueue | IdleWarning | Task | TaskDone) -> None:
    read = Progress.from_json(Progress(progress=progress).to_json())
    assert read is not None
    assert type(read.progress) is type(progress)
    assert read.progress == progress
