"""Fixtures of the integration tests."""

from tests.launchers import launcher, launchers, shared_launcher, storage
from tests.simulation_servers import forker, servers, wire

__all__ = ["forker", "launcher", "launchers", "servers", "shared_launcher", "storage", "wire"]
