"""Fixtures of the fault tests."""

from tests.launchers import launcher, launchers, shared_launcher, storage

__all__ = ["launcher", "launchers", "shared_launcher", "storage"]
