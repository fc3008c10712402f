"""What the tests of the commands share."""

from tests.gateways import no_settings_from_outside

__all__ = ["no_settings_from_outside"]
