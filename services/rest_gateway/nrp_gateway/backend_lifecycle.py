"""A simulation's lifecycle as the gateway sees it: it validates what is asked and takes over what is reported."""

from __future__ import annotations

from nrp_common.errors import InvalidTransition, SimulationFinal
from nrp_common.lifecycle import SOURCES, SimulationEvent, SimulationLifecycle, SimulationState
from nrp_common.messages import CommandEvent, LifecycleMessage

LARGEST_SEQ = 2**53
"""Beyond it no catalogue and no JSON reader counts exactly; no simulation lives that long."""


class BackendSimulationLifecycle(SimulationLifecycle):
    """Mirrors the state that a simulation server owns.

    Args:
        state: the last one that is known.
        incarnation: of the server that reported it, "" when none did yet.
        seq: of the message that reported it.
    """

    def __init__(self, state: SimulationState = SimulationState.CREATED, incarnation: str = "", seq: int = 0) -> None:
        super().__init__(state)
        self.incarnation = incarnation
        self.seq = seq

    def validate(self, command: CommandEvent) -> bool:
        """Whether `command` has to be sent: one that asks for the state that is there does not.

        Raises:
            SimulationFinal: the simulation has ended.
            InvalidTransition: the state does not allow the command.
        """
        if self.current.is_final:
            raise SimulationFinal
        if command is CommandEvent.STEP:  # started and paused again: repeated in `started` it is no step
            if self.current is not SimulationState.PAUSED:
                raise InvalidTransition(self.state, SimulationState.STARTED)
            return True
        event = SimulationEvent(command.value)
        if event is not SimulationEvent.RESET and self.current is event.target:
            return False
        if self.current not in SOURCES[event]:
            raise InvalidTransition(self.state, event.target)
        return True

    def mirror(self, message: LifecycleMessage) -> bool:
        """Take over what was reported, unless it is older than what is known or of another incarnation.

        Messages may be missing in between: the state jumps to the one reported.

        Returns:
            Whether the message counted.
        """
        is_of_another = bool(self.incarnation) and message.incarnation != self.incarnation
        if self.current.is_final or is_of_another or not self.seq < message.seq <= LARGEST_SEQ:
            return False
        self.state = message.target_state.value
        self.incarnation = message.incarnation
        self.seq = message.seq
        return True
