"""What tests of the cores share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cores.experiment import Experiment, seen


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """An empty folder that becomes an experiment."""
    seen.clear()
    return Experiment(tmp_path)
