"""Fixtures of the tests of deployments."""

from __future__ import annotations

from tests.gateways import no_settings_from_outside
from tests.launchers import launchers, storage
from tests.simulation_servers import forker, servers, wire

__all__ = ["forker", "launchers", "no_settings_from_outside", "servers", "storage", "wire"]
