"""Idle simulations are warned, and stopped."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import pytest

from nrp_common.bus import Bus
from nrp_common.lifecycle import SimulationState
from nrp_simserver.launcher.idle_culling import IdleCulling
from nrp_simserver.simulation_folder import Journal
from tests.fakes import FakeBus

PAUSED = Journal(state=SimulationState.PAUSED, seq=1)


class Watched:
    """A simulation's culling, with a clock that a test turns."""

    def __init__(self, timeout_s: float) -> None:
        self.seconds = 1000.0
        self.bus = FakeBus()
        self.culling = IdleCulling(timeout_s, cast(Bus, self.bus), "status", now=lambda: self.seconds)
        self.journal = PAUSED
        self.look()

    def look(self) -> str | None:
        return self.culling.verdict(self.journal)

    def after(self, seconds: float) -> str | None:
        """What becomes of it when it is looked at once a second."""
        for _ in range(int(seconds)):
            self.seconds += 1
            if (verdict := self.look()) is not None:
                return verdict
        return None

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(each)["progress"] for each in self.bus.said.get("status", [])]


@pytest.mark.parametrize("state", [SimulationState.PAUSED, SimulationState.COMPLETED])
def test_idle_simulation_is_stopped_after_its_time(state: SimulationState) -> None:
    watched = Watched(300)
    watched.journal = Journal(state=state, seq=5)
    assert watched.after(300) is None
    assert watched.after(1) == (f"The simulation was {state} for 300 s without any command (limit NRP_IDLE_TIMEOUT_S)")


@pytest.mark.parametrize("state", [SimulationState.CREATED, SimulationState.STARTED])
def test_simulation_at_work_is_not_idle(state: SimulationState) -> None:
    watched = Watched(10)
    watched.journal = Journal(state=state, seq=1)
    assert watched.after(100) is None
    assert watched.said == []


def test_without_a_timeout_nothing_is_idle() -> None:
    watched = Watched(0)
    assert watched.after(1000) is None
    assert watched.said == []


def test_warning_comes_a_minute_before_and_is_said_again_until_the_end() -> None:
    watched = Watched(300)
    watched.after(239)
    assert watched.said == []
    watched.after(1)
    assert (
        watched.said[0].items()
        >= {
            "task": "Idle",
            "subtask": "It is stopped in 60 s, unless it gets a command",
            "number_of_subtasks": 0,
            "subtask_index": 0,
            "block_ui": False,
        }.items()
    )
    assert watched.said[0]["stopsAt"] == pytest.approx(time.time() + 60, abs=30)
    watched.after(59)
    assert len(watched.said) == 12
    assert watched.said[-1]["subtask"] == "It is stopped in 5 s, unless it gets a command"
    watched.after(1)
    assert watched.said[-1] == {"task": "Idle", "done": True}


def test_command_takes_the_warning_back_at_once_and_gives_all_the_time_again() -> None:
    watched = Watched(300)
    watched.after(250)
    watched.culling.stir()
    assert watched.said[-1] == {"task": "Idle", "done": True}
    assert watched.after(299) is None
    assert watched.after(2) is not None


def test_new_state_gives_all_the_time_again() -> None:
    watched = Watched(300)
    watched.after(290)
    watched.journal = Journal(state=SimulationState.COMPLETED, seq=3)
    assert watched.after(300) is None
    assert watched.after(2) is not None


def test_nobody_is_stopped_who_was_not_warned_in_time() -> None:
    watched = Watched(300)
    watched.seconds += 1000  # this launcher was kept from looking
    assert watched.look() is None
    assert len(watched.said) == 1
    assert watched.after(59) is None
    assert watched.after(1) is not None
