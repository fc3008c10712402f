"""Parts of a gateway, on a bus with nobody else on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nrp_common.bus import Bus
from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import LifecycleMessage
from nrp_common.topics import Topics
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.mirror import Mirror
from tests.fakes import FakeBus


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    catalogue = Catalogue(f"sqlite:///{tmp_path}/catalogue.sqlite")
    catalogue.migrate()
    yield catalogue
    catalogue.close()


@pytest.fixture
def bus() -> FakeBus:
    return FakeBus()


@pytest.fixture
def mirror(catalogue: Catalogue, bus: FakeBus) -> Iterator[Mirror]:
    mirror = Mirror(catalogue, cast(Bus, bus), Topics())
    mirror.start()
    yield mirror
    mirror.close()


def add(
    catalogue: Catalogue, *, slot: int | None = None, launcher: str = "fake", queued_at: float | None = None
) -> SimulationRecord:
    """A simulation as it is launched."""
    return catalogue.add(
        experiment_id="demo",
        configuration="simulation_config.json",
        main_script="main_script.py",
        owner="ann",
        context_id=None,
        slot=slot,
        launcher=launcher,
        queued_at=queued_at,
    )


def report(
    record: SimulationRecord, event: SimulationEvent, seq: int, *, incarnation: str = "i", reason: str | None = None
) -> LifecycleMessage:
    """What a server, or at the end its launcher, says."""
    return LifecycleMessage(
        source_node="somebody",
        source_state=record.state,
        event=event,
        target_state=event.target,
        incarnation=incarnation,
        seq=seq,
        reason=reason,
    )
