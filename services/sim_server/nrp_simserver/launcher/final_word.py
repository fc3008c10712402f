"""The final word on a simulation: how its launcher composes it, notes it down and says it on the bus."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Final

from nrp_common.errors import BusUnavailable
from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import Archives, FailedStatus, LifecycleMessage, RuntimeErrorReport, Status
from nrp_simserver.launcher.launch_site import LaunchSite
from nrp_simserver.launcher.simulation_record import SimulationRecord
from nrp_simserver.launcher.verdict import Verdict
from nrp_simserver.simulation_folder import Journal, SimulationFolder

log = logging.getLogger(__name__)

BROKER_AWAY_S: Final = 60.0
"""Between two looks at whether a broker is back."""

DELIVERED_WITHIN_S: Final = 5.0
"""How long a broker that is there may take to acknowledge the final word."""


class FinalWord:
    """The final word on one simulation. Whoever says it first has it: a gateway, the server, or this launcher.

    Args:
        record: the simulation's, which keeps it.
        folder: the simulation's.
        site: where it is launched.

    Attributes:
        awaits_broker: whether there is nothing to do until the broker is back.
    """

    def __init__(self, record: SimulationRecord, folder: SimulationFolder, site: LaunchSite) -> None:
        self.awaits_broker = False
        self._record = record
        self._folder = folder
        self._bus = site.bus
        self._topics = site.settings.topics
        self._node = site.node
        self._is_spoken = threading.Event()

    def note(self, message: LifecycleMessage) -> None:
        """Have it spoken again, not another one, if this launcher dies now. The first one counts."""
        if self._record.final is None:
            self._record.final = message
            self._record.keep(self._folder)

    def note_own(self, verdict: Verdict, journal: Journal, stored: Archives) -> None:
        """Compose this launcher's, and note it unless there is one.

        Args:
            verdict: how the simulation ended.
            journal: how far it got; its server may have heard what passed this launcher by.
            stored: where its archives are.
        """
        own = LifecycleMessage(
            source_node=self._node,
            source_state=journal.state,
            event=verdict.event,
            target_state=verdict.event.target,
            incarnation=self._record.incarnation,
            seq=journal.seq + 1,
            reason=verdict.reason,
            logs=stored.logs,
            results=stored.results,
        )
        self.note(journal.verdict or own)

    def speak(self, verdict: Verdict, journal: Journal, stored: Archives, *, is_leftover: bool) -> None:
        """Publish what is noted unless somebody else did, and where the archives are if it does not say so."""
        final = self._record.final
        assert final is not None
        # A gateway that gave up on an earlier launcher listens to nothing else any more.
        if is_leftover or Archives(logs=final.logs, results=final.results) != stored:
            self._retain_archives(stored)
        if final.source_node == self._node:
            self._publish(final, verdict, journal)
        self._is_spoken.set()

    def add_archives(self, archives: Archives) -> None:
        """Tell where the archives are, which the final word could not."""
        self._is_spoken.wait()
        self._retain_archives(archives)

    def await_delivery(self) -> None:
        """Wait until it is out: should this launcher end before, the next one finds it in the folder."""
        self.await_broker()
        self._bus.flush(DELIVERED_WITHIN_S)

    def await_broker(self) -> None:
        """Wait for the broker, for as long as it takes."""
        while not self._bus.is_connected:
            self.awaits_broker = True
            with suppress(BusUnavailable):
                self._bus.wait_until_connected(BROKER_AWAY_S)
        self.awaits_broker = False

    def _retain_archives(self, archives: Archives) -> None:
        self._bus.retain(self._topics.archives(self._record.launch.simulation_id), archives)

    def _publish(self, final: LifecycleMessage, verdict: Verdict, journal: Journal) -> None:
        simulation_id, reason = self._record.launch.simulation_id, final.reason or ""
        report = journal.unheard
        if verdict.report is not None:
            report = RuntimeErrorReport(sim_id=str(simulation_id), msg=reason, error_type=verdict.report)
        if report is not None:
            self._bus.publish(self._topics.runtime_error(simulation_id), report, qos=1)
        times = journal.model_dump(include={"simulation_time", "real_time", "simulation_time_left"})
        failed = final.event is SimulationEvent.FAILED
        status = FailedStatus(state=final.target_state, error=reason, **times) if failed else None
        self._bus.retain(self._topics.lifecycle(simulation_id), final)
        self._bus.retain(self._topics.status(simulation_id), status or Status(state=final.target_state, **times))
        log.info("Simulation %d %s: %s", simulation_id, final.event, reason or "as it was asked to")
