"""How a simulation ended: the verdict of its launcher, from all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import ErrorType
from nrp_simserver.launcher.simulation_record import SimulationRecord
from nrp_simserver.server_end import last_words
from nrp_simserver.simulation_folder import SimulationFolder


@dataclass(frozen=True)
class Verdict:
    """How a simulation ended.

    Attributes:
        event: `stopped` or `failed`.
        reason: why, None when its owner asked for it.
        report: the kind of error that is still to be reported, as the simulation server could not.
    """

    event: SimulationEvent
    reason: str | None = None
    report: ErrorType | None = None


def verdict_on(record: SimulationRecord, folder: SimulationFolder, how: str, *, by_placement: bool = False) -> Verdict:
    """The verdict on a simulation whose server has ended.

    Args:
        record: the simulation's, which tells what launchers did and said.
        folder: the simulation's, in which its server noted how far it got.
        how: the server ended, in a sentence.
        by_placement: whether it was its placement that had it end.
    """
    intention, journal = record.intention, folder.read_journal()
    if record.final is not None:
        return Verdict(record.final.event, record.final.reason)
    if intention is not None and intention.event is SimulationEvent.FAILED:
        return Verdict(SimulationEvent.FAILED, intention.reason, ErrorType.RUNTIME)
    if journal.error is not None:
        return Verdict(SimulationEvent.FAILED, journal.error)
    if intention is not None:
        return Verdict(SimulationEvent.STOPPED, intention.reason)
    kind = ErrorType.RUNTIME if journal.seq else ErrorType.LOADING
    if by_placement:
        return Verdict(SimulationEvent.FAILED, how, kind)
    if journal.stopping:
        return Verdict(SimulationEvent.STOPPED)
    return Verdict(SimulationEvent.FAILED, f"{how}{last_words(folder.log)}", kind)
