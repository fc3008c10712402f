"""What the tests of the simulation server's package share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nrp_simserver.simulation_folder import SimulationFolder
from tests.unit.simserver.fake_storage import FakeStorage


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("NRP_", "STORAGE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> SimulationFolder:
    """The folder of simulation 7, with an empty experiment."""
    folder = SimulationFolder(tmp_path / "7", 7)
    folder.experiment.mkdir(parents=True)
    return folder


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()
