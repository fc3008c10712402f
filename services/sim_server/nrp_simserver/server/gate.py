"""The gate that a simulation passes before each step: closing it pauses, ending it stops or resets.

One thread steps (it calls `wait`, `step_taken` and `hold`), others open and close.
"""

from __future__ import annotations

import threading


class SimulationEnding(BaseException):
    """Ends the main script. Like `SystemExit` no `Exception`, so that a script's `except Exception` lets it pass."""


class SimulationStopped(SimulationEnding):
    """The simulation was stopped."""


class SimulationReset(SimulationEnding):
    """The simulation is being reset: its script begins again from its top."""


class Gate:
    """Lets steps pass, or makes them wait.

    Attributes:
        is_open: whether steps pass freely. Read without a lock before each step, which costs nothing.
        ending: what `wait` raises instead of waiting, None when nothing ends.
        refusals: how often `wait` raised `ending`.
    """

    __slots__ = ("_changed", "_disowned", "_steps", "ending", "is_open", "refusals")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._disowned = False
        self._steps = 0
        self.is_open = False
        self.ending: type[SimulationEnding] | None = None
        self.refusals = 0

    # -- the stepping thread -------------------------------------------------------------------------------------------

    def wait(self) -> bool:
        """Return when a step may be taken.

        Returns:
            Whether it is one of those of `open_for`, to be counted by `step_taken`.

        Raises:
            SimulationEnding: the simulation is being stopped or reset.
            RuntimeError: this process was forked from the simulation's and has no simulation.
        """
        with self._changed:
            while not self.is_open and not self._steps:
                if self._disowned:
                    raise RuntimeError("A process forked from a simulation cannot step it")
                self._refuse_when_ending()
                self._changed.wait()
            return not self.is_open

    def step_taken(self) -> bool:
        """Count a step against those of `open_for`. Returns whether that was the last of them."""
        with self._changed:
            if not self._steps:
                return False
            self._steps -= 1
            return not self._steps

    def hold(self, seconds: float) -> bool:
        """Let real time pass between two steps, `seconds` at most: no longer than steps may be taken.

        Returns:
            Whether the time has passed and steps may still be taken.

        Raises:
            SimulationEnding: the simulation is being stopped or reset.
        """
        with self._changed:
            is_closed = self._changed.wait_for(
                lambda: not self.is_open and not self._steps, min(seconds, threading.TIMEOUT_MAX)
            )
            self._refuse_when_ending()
            return not is_closed

    # -- whoever commands ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Let steps pass, unless the simulation is ending."""
        self._set(is_open=self.ending is None, steps=0)

    def open_for(self, steps: int) -> None:
        """Let `steps` steps pass, unless the simulation is ending."""
        self._set(is_open=False, steps=steps if self.ending is None else 0)

    def close(self) -> None:
        """Make steps wait; one that is being taken ends."""
        self._set(is_open=False, steps=0)

    def end(self, ending: type[SimulationEnding]) -> None:
        """Close for good: whoever waits, or comes, gets `ending` raised. A stop takes precedence over a reset."""
        with self._changed:
            if self.ending is not SimulationStopped:
                self.ending = ending
            self._set(is_open=False, steps=0)

    def renew(self) -> None:
        """Take back a reset that has been carried out: closed, for a script that begins anew."""
        with self._changed:
            if self.ending is SimulationReset:
                self.ending = None
            self.refusals = 0

    def disown(self) -> None:
        """Called in a process that the script forked: it must not step, nor use a lock that it inherited."""
        self._changed = threading.Condition()
        self._disowned = True
        self._steps = 0
        self.is_open = False

    def _refuse_when_ending(self) -> None:
        if self.ending is not None:
            self.refusals += 1
            raise self.ending

    def _set(self, *, is_open: bool, steps: int) -> None:
        with self._changed:
            self.is_open = is_open
            self._steps = steps
            self._changed.notify_all()
