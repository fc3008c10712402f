"""The lifecycle of a simulation where it is owned: in its server. Everybody else mirrors what this one publishes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from nrp_common.lifecycle import SimulationEvent, SimulationLifecycle, SimulationState
from nrp_common.messages import LifecycleMessage, RuntimeErrorReport
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.notifier import MQTTNotifier
from nrp_simserver.simulation_folder import Journal, SimulationFolder

log = logging.getLogger(__name__)


class SimulationServerLifecycle(SimulationLifecycle):
    """The state of one simulation until its final one, which its launcher publishes when the process is gone.

    Each transition is journalled, published, and answered to whoever asked for it. It is taken, and what belongs to it
    done, while holding `lock`.

    Args:
        folder: the simulation's.
        clock: its times.
        notifier: tells the bus.
        answer: called at each transition, to answer who waits for it.

    Attributes:
        lock: guards the state and what has to agree with it. May be taken repeatedly, and is never held across a step.
        seq: of the last lifecycle message.
        changed_at: when that was, in seconds since 1970.
        verdict: what somebody else declared of the simulation, None when nobody did.
    """

    def __init__(
        self, folder: SimulationFolder, clock: SimulationClock, notifier: MQTTNotifier, answer: Callable[[], None]
    ) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self.seq = 0
        self.changed_at = 0.0
        self.verdict: LifecycleMessage | None = None
        self._folder = folder
        self._clock = clock
        self._notifier = notifier
        self._answer = answer
        self._obstacle: str | None = None  # to the journal, when it could not be written last

    def entered(self, source: SimulationState, event: SimulationEvent) -> None:
        """Account the real time, write the journal, tell the bus and who asked for it."""
        self.seq += 1
        self.changed_at = time.time()
        if self.current is SimulationState.STARTED:
            self._clock.start()
        else:
            self._clock.pause()
        self.keep_journal()
        # In this order they reach the broker: whoever sees the status finds the state at the gateway, too, and whoever
        # has the answer finds the transition there, whatever is lost next, and the times as the command left them.
        self._notifier.transition(source, event, self.current, self.seq)
        self.publish_status()
        self._answer()

    def publish_status(self) -> None:
        """Publish times and state as they are."""
        with self.lock:
            self._notifier.status(self.current, self._clock)

    def keep_journal(
        self, *, stopping: bool = False, error: str | None = None, unheard: RuntimeErrorReport | None = None
    ) -> None:
        """Write the journal, if that is possible: a full disk or a lost folder is no reason to fall silent.

        The launcher hears of each transition on the bus as well, and reads of an error in the log.
        """
        try:
            self.write_journal(stopping=stopping, error=error, unheard=unheard)
        except OSError as obstacle:
            if str(obstacle) != self._obstacle:  # not once a second
                log.error("The journal cannot be written: %s", obstacle)
            self._obstacle = str(obstacle)
        else:
            self._obstacle = None

    def write_journal(
        self, *, stopping: bool = False, error: str | None = None, unheard: RuntimeErrorReport | None = None
    ) -> None:
        """Tell the launcher how far the simulation got, and at the end how it ended.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.write_journal(
            Journal(
                state=self.current,
                seq=self.seq,
                simulation_time=self._clock.simulation_time,
                real_time=self._clock.real_time,
                total_real_time=self._clock.total_real_time,
                simulation_time_left=self._clock.simulation_time_left,
                steps=self._clock.steps,
                bus=self._notifier.bus_counts,
                stopping=stopping,
                error=error,
                verdict=self.verdict,
                unheard=unheard,
            )
        )
