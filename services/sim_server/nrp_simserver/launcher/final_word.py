"""The final word on a simulation: how its launcher composes it and says it on the bus."""

from __future__ import annotations

import logging

from nrp_common.bus import Bus
from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import Archives, FailedStatus, LifecycleMessage, RuntimeErrorReport, Status
from nrp_common.topics import Topics
from nrp_simserver.launcher.verdict import Verdict
from nrp_simserver.simulation_folder import Journal

log = logging.getLogger(__name__)


def compose(node: str, incarnation: str, verdict: Verdict, journal: Journal, stored: Archives) -> LifecycleMessage:
    """The lifecycle message that says how a simulation ended.

    Args:
        node: who says it.
        incarnation: of its server.
        verdict: how it ended.
        journal: how far it got.
        stored: where its archives are.
    """
    return LifecycleMessage(
        source_node=node,
        source_state=journal.state,
        event=verdict.event,
        target_state=verdict.event.target,
        incarnation=incarnation,
        seq=journal.seq + 1,
        reason=verdict.reason,
        logs=stored.logs,
        results=stored.results,
    )


def speak(
    bus: Bus, topics: Topics, simulation_id: int, final: LifecycleMessage, verdict: Verdict, journal: Journal
) -> None:
    """Publish the final state, with the times that the simulation got to."""
    reason = final.reason or ""
    if verdict.report is not None:
        report = RuntimeErrorReport(sim_id=str(simulation_id), msg=reason, error_type=verdict.report)
        bus.publish(topics.runtime_error(simulation_id), report, qos=1)
    times = journal.model_dump(include={"simulation_time", "real_time", "simulation_time_left"})
    failed = final.event is SimulationEvent.FAILED
    status = FailedStatus(state=final.target_state, error=reason, **times) if failed else None
    bus.retain(topics.lifecycle(simulation_id), final)
    bus.retain(topics.status(simulation_id), status or Status(state=final.target_state, **times))
    log.info("Simulation %d %s: %s", simulation_id, final.event, reason or "as it was asked to")
