"""Who answers commands to a simulation when its server does not: before there is one, when it dies, and afterwards."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from nrp_common.bus import Responder
from nrp_common.errors import InvalidTransition, SimulationFinal
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Command, Refusal, Reply

COMMANDS_UNDER_WAY: Final = 16
"""How many commands to a server that dies are answered in its place."""

DIED_OVER_IT: Final = "The simulation ended before it carried that out"


class _Server(Enum):
    """What there is of a simulation server."""

    TO_COME = auto()
    THERE = auto()
    DEAD = auto()  # and the simulation's final word is not spoken
    DONE = auto()


class StandIn:
    """Answers in the place of one simulation's server. Usable from several threads."""

    def __init__(self) -> None:
        self._server = _Server.TO_COME
        self._unanswered: deque[Responder] = deque(maxlen=COMMANDS_UNDER_WAY)

    @property
    def has_server(self) -> bool:
        """Whether there is a server, or about to be, that answers commands."""
        return self._server is _Server.THERE

    def take(self, command: Command, responder: Responder) -> None:
        """Answer a command if no server is going to: now, or when it has died over it.

        Args:
            command: other than to stop.
            responder: of whoever asks.
        """
        match self._server:
            case _Server.TO_COME:
                refusal = str(InvalidTransition(SimulationState.CREATED, command.event))
                responder.reply(Reply(error=refusal, refusal=Refusal.INVALID))
            case _Server.DONE:
                responder.reply(Reply(error=str(SimulationFinal()), refusal=Refusal.INVALID))
            case _:
                self._unanswered.append(responder)
                if not self.has_server:  # it may have died just now
                    self._answer_for_the_dead()

    def server_is_there(self) -> None:
        """From now on the server answers, as long as it lives."""
        self._server = _Server.THERE

    def server_is_dead(self, *, was_stopped: bool) -> None:
        """Answer what it did not; and, when the simulation was stopped, that this is final."""
        self._server = _Server.DONE if was_stopped else _Server.DEAD
        self._answer_for_the_dead()

    def all_is_said(self) -> None:
        """The final word is spoken."""
        self._server = _Server.DONE

    def _answer_for_the_dead(self) -> None:
        with suppress(IndexError):
            while True:
                self._unanswered.popleft().reply(Reply(error=DIED_OVER_IT, refusal=Refusal.FAILED))
