"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways import no_settings_from_outside
from tests.launchers import launcher, launchers, shared_launcher, storage
from tests.mosquitto import Mosquitto

__all__ = ["launcher", "launchers", "no_settings_from_outside", "shared_launcher", "storage"]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of a test's own, to take away."""
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()
