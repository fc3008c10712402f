"""How a simulation ended, from all that is known of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import ErrorType, Launch, LifecycleMessage
from nrp_simserver.launcher.simulation_record import Intention, SimulationRecord
from nrp_simserver.launcher.verdict import Verdict, verdict_on
from nrp_simserver.simulation_folder import Journal, SimulationFolder

STOPPED, FAILED = SimulationEvent.STOPPED, SimulationEvent.FAILED
HOW = "The simulation server was killed by SIGKILL"

STARTED = Journal(state=SimulationState.STARTED, seq=2)
NOT_READY = Journal()
ENDED_IN_ORDER = Journal(state=SimulationState.STARTED, seq=2, stopping=True)
FAILED_ITSELF = Journal(state=SimulationState.STARTED, seq=2, error="NameError")

STOP = Intention(event=STOPPED)
STOP_OF_LAUNCHER = Intention(event=STOPPED, reason="The launcher was ended")
FAULT = Intention(event=FAILED, reason="too large")

FINAL = LifecycleMessage(
    source_node="nrp_gateway",
    source_state=SimulationState.STARTED,
    event=FAILED,
    target_state=SimulationState.FAILED,
    reason="nobody was there",
)


@pytest.fixture
def folder(tmp_path: Path) -> SimulationFolder:
    return SimulationFolder(tmp_path, 1)


@pytest.mark.parametrize(
    ("journal", "intention", "by_placement", "verdict"),
    [
        (STARTED, None, False, Verdict(FAILED, HOW, ErrorType.RUNTIME)),
        (NOT_READY, None, False, Verdict(FAILED, HOW, ErrorType.LOADING)),
        (ENDED_IN_ORDER, None, False, Verdict(STOPPED)),
        (ENDED_IN_ORDER, None, True, Verdict(FAILED, HOW, ErrorType.RUNTIME)),
        (ENDED_IN_ORDER, STOP, True, Verdict(STOPPED)),
        (STARTED, STOP, False, Verdict(STOPPED)),
        (STARTED, STOP_OF_LAUNCHER, False, Verdict(STOPPED, "The launcher was ended")),
        (STARTED, FAULT, False, Verdict(FAILED, "too large", ErrorType.RUNTIME)),
        (FAILED_ITSELF, None, False, Verdict(FAILED, "NameError")),
        (FAILED_ITSELF, STOP, False, Verdict(FAILED, "NameError")),
        (FAILED_ITSELF, FAULT, False, Verdict(FAILED, "too large", ErrorType.RUNTIME)),
        (FAILED_ITSELF, None, True, Verdict(FAILED, "NameError")),
    ],
)
def test_verdict_is_what_explains_the_end(
    folder: SimulationFolder, journal: Journal, intention: Intention | None, by_placement: bool, verdict: Verdict
) -> None:
    folder.write_journal(journal)
    assert verdict_on(record(intention), folder, HOW, by_placement=by_placement) == verdict


def test_verdict_that_was_passed_stands(folder: SimulationFolder) -> None:
    folder.write_journal(FAILED_ITSELF)
    passed = record(STOP).model_copy(update={"final": FINAL})
    assert verdict_on(passed, folder, HOW) == Verdict(FAILED, "nobody was there")


def test_unexplained_end_is_told_with_the_last_words(folder: SimulationFolder) -> None:
    folder.log.write_text("Segmentation fault\n")
    assert verdict_on(record(None), folder, HOW).reason == f"{HOW}; its last words:\nSegmentation fault"


def record(intention: Intention | None) -> SimulationRecord:
    launch = Launch(
        deadline=0, simulation_id=1, experiment_id="e", configuration="c.json", main_script="m.py", owner="o"
    )
    return SimulationRecord(launch=launch, incarnation="i", launched_at=datetime.now(UTC), intention=intention)
