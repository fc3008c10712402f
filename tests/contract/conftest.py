"""Fixtures of the contract tests."""

from tests.gateways import gateway, installation, launcher, no_settings_from_outside, shared, simulation

__all__ = ["gateway", "installation", "launcher", "no_settings_from_outside", "shared", "simulation"]
