"""The states of a simulation and the transitions between them, the same for everybody who speaks of them.

    created -> paused          (trigger initialized)
    paused <-> started
    started -> completed
    created, paused, started, completed -> stopped
    created, paused, started, completed -> failed
    paused, started, completed -> paused   (trigger reset)

`stopped` and `failed` are final. A trigger repeated in the state it leads to is ignored.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from transitions import EventData, Machine, MachineError

from nrp_common.errors import InvalidTransition, SimulationFinal


class SimulationState(StrEnum):
    """Where a simulation is in its life."""

    CREATED = "created"
    """It exists and is getting ready."""
    PAUSED = "paused"
    """Its resources are allocated, its script does not advance."""
    STARTED = "started"
    """Its script is executing."""
    COMPLETED = "completed"
    """Its script has ended, its resources are held."""
    STOPPED = "stopped"
    """Its resources are freed, its logs stored. Final."""
    FAILED = "failed"
    """It met a fatal error; its resources are freed, its logs stored. Final."""

    @property
    def is_final(self) -> bool:
        """Whether no transition leads out of this state."""
        return self in (SimulationState.STOPPED, SimulationState.FAILED)


class SimulationEvent(StrEnum):
    """What moves a simulation from one state to another."""

    INITIALIZED = "initialized"
    PAUSED = "paused"
    STARTED = "started"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    RESET = "reset"

    @property
    def target(self) -> SimulationState:
        """The state that this event leads to."""
        if self in (SimulationEvent.INITIALIZED, SimulationEvent.RESET):
            return SimulationState.PAUSED
        return SimulationState(self.value)


_UNFINISHED = [SimulationState.CREATED, SimulationState.PAUSED, SimulationState.STARTED, SimulationState.COMPLETED]

SOURCES: dict[SimulationEvent, list[SimulationState]] = {
    SimulationEvent.INITIALIZED: [SimulationState.CREATED],
    SimulationEvent.PAUSED: [SimulationState.STARTED],
    SimulationEvent.STARTED: [SimulationState.PAUSED],
    SimulationEvent.COMPLETED: [SimulationState.STARTED],
    SimulationEvent.RESET: [SimulationState.PAUSED, SimulationState.STARTED, SimulationState.COMPLETED],
    SimulationEvent.STOPPED: _UNFINISHED,
    SimulationEvent.FAILED: _UNFINISHED,
}
"""The states from which each event is allowed."""


_MACHINE: Final = Machine(
    model=None,
    states=[state.value for state in SimulationState],
    transitions=[
        {"trigger": f"on_{event}", "source": source.value, "dest": event.target.value}
        for event, sources in SOURCES.items()
        for source in sources
    ],
    initial=None,
    auto_transitions=False,
    send_event=True,
    after_state_change="_after_state_change",
)
"""Shared by all lifecycles, which keep their own states: to make a machine takes 0.3 ms."""


class SimulationLifecycle:
    """One simulation's state. Subclasses say what happens on a transition by overriding `entered`.

    Not thread-safe: whoever owns it moves it from one thread, or under a lock of its own.
    """

    state: str  # what the machine reads and writes

    def __init__(self, state: SimulationState = SimulationState.CREATED) -> None:
        self.state = state.value

    @property
    def current(self) -> SimulationState:
        """The state as a member of `SimulationState`."""
        return SimulationState(self.state)

    def allows(self, event: SimulationEvent) -> bool:
        """Whether `fire(event)` would succeed, be it by doing nothing."""
        return self._is_repeated(event) or self.current in SOURCES[event]

    def fire(self, event: SimulationEvent) -> bool:
        """Take the transition that `event` stands for.

        Returns:
            Whether the state changed: a repeated event is ignored.

        Raises:
            SimulationFinal: the simulation has ended.
            InvalidTransition: the event is not allowed in this state.
        """
        if self._is_repeated(event):
            return False
        if self.current.is_final:
            raise SimulationFinal
        try:
            _MACHINE.events[f"on_{event}"].trigger(self)
        except MachineError as error:
            raise InvalidTransition(self.state, event.target) from error
        return True

    def entered(self, source: SimulationState, event: SimulationEvent) -> None:
        """Called after each transition, with the state that was left and the event that did it."""

    def _is_repeated(self, event: SimulationEvent) -> bool:
        return event is not SimulationEvent.RESET and self.state == event.target

    def _after_state_change(self, event: EventData) -> None:
        assert event.transition is not None
        self.entered(SimulationState(event.transition.source), SimulationEvent(event.event.name.removeprefix("on_")))
