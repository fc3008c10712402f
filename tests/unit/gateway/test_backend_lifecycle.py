"""What a gateway sends on, and what it takes over."""

from __future__ import annotations

import itertools

import pytest

from nrp_common.errors import InvalidTransition, SimulationFinal
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import CommandEvent, LifecycleMessage
from nrp_gateway.backend_lifecycle import LARGEST_SEQ, BackendSimulationLifecycle

CREATED, PAUSED, STARTED, COMPLETED = (
    SimulationState.CREATED, SimulationState.PAUSED, SimulationState.STARTED, SimulationState.COMPLETED,
)  # fmt: skip

SENT = {
    (PAUSED, CommandEvent.STARTED), (PAUSED, CommandEvent.RESET), (PAUSED, CommandEvent.STEP),
    (PAUSED, CommandEvent.STOPPED), (STARTED, CommandEvent.PAUSED), (STARTED, CommandEvent.RESET),
    (STARTED, CommandEvent.STOPPED), (COMPLETED, CommandEvent.RESET), (COMPLETED, CommandEvent.STOPPED),
    (CREATED, CommandEvent.STOPPED),
}  # fmt: skip

REPEATED = {(PAUSED, CommandEvent.PAUSED), (STARTED, CommandEvent.STARTED)}

UNFINISHED = [state for state in SimulationState if not state.is_final]


@pytest.mark.parametrize(("state", "command"), list(itertools.product(UNFINISHED, CommandEvent)))
def test_command_is_sent_ignored_or_refused(state: SimulationState, command: CommandEvent) -> None:
    lifecycle = BackendSimulationLifecycle(state)
    if (state, command) in SENT | REPEATED:
        assert lifecycle.validate(command) is ((state, command) in SENT)
    else:
        with pytest.raises(InvalidTransition):
            lifecycle.validate(command)
    assert lifecycle.current is state


@pytest.mark.parametrize("command", CommandEvent)
@pytest.mark.parametrize("state", [SimulationState.STOPPED, SimulationState.FAILED])
def test_final_simulation_takes_no_command(state: SimulationState, command: CommandEvent) -> None:
    with pytest.raises(SimulationFinal):
        BackendSimulationLifecycle(state).validate(command)


def message(seq: int, event: SimulationEvent = SimulationEvent.STARTED, incarnation: str = "i") -> LifecycleMessage:
    return LifecycleMessage(
        source_node="n",
        source_state=PAUSED,
        event=event,
        target_state=event.target,
        incarnation=incarnation,
        seq=seq,
    )


def test_newer_report_counts() -> None:
    lifecycle = BackendSimulationLifecycle(PAUSED, "i", 1)
    assert lifecycle.mirror(message(2))
    assert (lifecycle.current, lifecycle.incarnation, lifecycle.seq) == (STARTED, "i", 2)


def test_report_counts_although_some_before_it_are_missing() -> None:
    lifecycle = BackendSimulationLifecycle(CREATED, "", 0)
    assert lifecycle.mirror(message(7, SimulationEvent.COMPLETED))
    assert (lifecycle.current, lifecycle.seq) == (COMPLETED, 7)


@pytest.mark.parametrize("seq", [0, 1, 2, LARGEST_SEQ + 1])
def test_report_that_is_not_newer_does_not_count(seq: int) -> None:
    lifecycle = BackendSimulationLifecycle(PAUSED, "i", 2)
    assert not lifecycle.mirror(message(seq))
    assert (lifecycle.current, lifecycle.seq) == (PAUSED, 2)


def test_report_of_another_incarnation_does_not_count() -> None:
    assert not BackendSimulationLifecycle(PAUSED, "i", 2).mirror(message(3, incarnation="other"))


@pytest.mark.parametrize("state", [SimulationState.STOPPED, SimulationState.FAILED])
def test_nothing_counts_after_a_final_state(state: SimulationState) -> None:
    lifecycle = BackendSimulationLifecycle(state, "i", 2)
    assert not lifecycle.mirror(message(3))
    assert lifecycle.current is state
