"""Fixtures of the contract tests."""

import pytest

from nrp_common.messages import Request
from tests.gateways import gateway, installation, launcher, no_settings_from_outside, shared, simulation

__all__ = ["gateway", "installation", "launcher", "no_settings_from_outside", "shared", "simulation"]


@pytest.fixture
def always_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked takes it, however late: for tests whose own time-outs are shorter than a busy machine takes."""
    monkeypatch.setattr(Request, "is_late", False)
