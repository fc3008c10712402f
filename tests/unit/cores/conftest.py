"""What tests of the cores share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nrp_simserver.cores.embedded import EmbeddedCore
from tests.unit.cores.experiment import Experiment, seen


@pytest.fixture
def experiment(tmp_path: Path) -> Iterator[Experiment]:
    """An empty folder that becomes an experiment."""
    seen.clear()
    experiment = Experiment(tmp_path)
    yield experiment
    experiment.close()


@pytest.fixture
def cores() -> Iterator[list[EmbeddedCore]]:
    """For cores that are shut down after the test."""
    made: list[EmbeddedCore] = []
    yield made
    for core in made:
        core.shutdown()
