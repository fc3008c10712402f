"""Fixtures of the integration tests."""

from tests.simulation_servers import forker, servers, wire

__all__ = ["forker", "servers", "wire"]
