"""The lifecycle of section 1.1 of the NRP 4 contract, transition by transition."""

from __future__ import annotations

import itertools

import pytest

from nrp_common.errors import InvalidTransition, SimulationFinal
from nrp_common.lifecycle import SimulationEvent, SimulationLifecycle, SimulationState

ALLOWED = {
    ("created", "initialized"): "paused",
    ("paused", "started"): "started",
    ("started", "paused"): "paused",
    ("started", "completed"): "completed",
    ("created", "stopped"): "stopped",
    ("paused", "stopped"): "stopped",
    ("started", "stopped"): "stopped",
    ("completed", "stopped"): "stopped",
    ("created", "failed"): "failed",
    ("paused", "failed"): "failed",
    ("started", "failed"): "failed",
    ("completed", "failed"): "failed",
    ("paused", "reset"): "paused",
    ("started", "reset"): "paused",
    ("completed", "reset"): "paused",
}

IGNORED = {
    ("paused", "initialized"),
    ("paused", "paused"),
    ("started", "started"),
    ("completed", "completed"),
    ("stopped", "stopped"),
    ("failed", "failed"),
}

FINAL = {"stopped", "failed"}

PAIRS = list(itertools.product([state.value for state in SimulationState], [event.value for event in SimulationEvent]))
REFUSED = [pair for pair in PAIRS if pair not in ALLOWED and pair not in IGNORED]


class Recorder(SimulationLifecycle):
    def __init__(self, state: str) -> None:
        super().__init__(SimulationState(state))
        self.seen: list[tuple[str, str, str]] = []

    def entered(self, source: SimulationState, event: SimulationEvent) -> None:
        self.seen.append((source, event, self.current))


@pytest.mark.parametrize(("state", "event"), ALLOWED)
def test_an_allowed_event_moves_and_is_reported_once(state: str, event: str) -> None:
    lifecycle = Recorder(state)
    target = ALLOWED[state, event]
    assert lifecycle.allows(SimulationEvent(event))
    assert lifecycle.fire(SimulationEvent(event)) is True
    assert lifecycle.current == target
    assert lifecycle.seen == [(state, event, target)]


@pytest.mark.parametrize(("state", "event"), sorted(IGNORED))
def test_a_repeated_event_is_ignored(state: str, event: str) -> None:
    lifecycle = Recorder(state)
    assert lifecycle.allows(SimulationEvent(event))
    assert lifecycle.fire(SimulationEvent(event)) is False
    assert (lifecycle.current, lifecycle.seen) == (state, [])


@pytest.mark.parametrize(("state", "event"), REFUSED)
def test_any_other_event_is_refused_and_changes_nothing(state: str, event: str) -> None:
    lifecycle = Recorder(state)
    assert not lifecycle.allows(SimulationEvent(event))
    with pytest.raises(SimulationFinal if state in FINAL else InvalidTransition):
        lifecycle.fire(SimulationEvent(event))
    assert (lifecycle.current, lifecycle.seen) == (state, [])


def test_a_refusal_is_worded_as_in_nrp_4() -> None:
    with pytest.raises(InvalidTransition, match=r"^The state transition is invalid \('created' -> 'started'\)$"):
        SimulationLifecycle().fire(SimulationEvent.STARTED)
    with pytest.raises(
        SimulationFinal, match=r"^The state transition is invalid \(The simulation requested is finalized\)$"
    ):
        SimulationLifecycle(SimulationState.STOPPED).fire(SimulationEvent.STARTED)


def test_a_lifecycle_begins_created() -> None:
    assert SimulationLifecycle().current is SimulationState.CREATED


def test_stopped_and_failed_are_final() -> None:
    assert {state for state in SimulationState if state.is_final} == FINAL
