"""Settings of the gateway, from environment variables `NRP_*`."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from nrp_common.settings import CommonSettings


class Authentication(StrEnum):
    """Who callers are."""

    OFF = "off"
    """Everybody is the same owner, and may do everything."""
    STORAGE = "storage"
    """Whoever the Storage Server says that a bearer token belongs to."""


class GatewaySettings(CommonSettings):
    """What the gateway can be told."""

    host: str = "127.0.0.1"
    """Where it listens."""
    port: int = Field(8090, ge=1, le=65535)
    """Of the REST API."""
    authentication: Authentication = Authentication.OFF
    """`off`: everybody may do everything. `storage`: callers are who the Storage Server says."""
    allow_unauthenticated: bool = False
    """Serve beyond this machine although everybody may do everything."""
    experiments_directory: Path | None = None
    """Where the gateway's own storage keeps the experiments; `experiments` in the data directory when not given."""
    catalogue_url: str = ""
    """An SQLAlchemy URL; an SQLite file in the data directory when not given."""
    simulations_per_owner: PositiveInt | None = None
    """How many simulations an owner may have at once; as many as launchers take when not given. Those that wait in the
    queue do not count."""
    cors_origins: str = "*"
    """Origins whose pages may call, separated by commas."""

    @model_validator(mode="after")
    def _have_what_authentication_needs(self) -> Self:
        if self.authentication is Authentication.STORAGE and not self.storage_url:
            raise ValueError(
                "NRP_AUTHENTICATION=storage needs NRP_STORAGE_URL: the gateway's own storage knows no users"
            )
        if self.authentication is Authentication.STORAGE and not self.secret_key.get_secret_value():
            raise ValueError("NRP_AUTHENTICATION=storage needs NRP_SECRET_KEY, to hand users' tokens to launchers")
        return self

    @model_validator(mode="after")
    def _stay_on_this_machine_without_authentication(self) -> Self:
        if self.authentication is Authentication.OFF and not self.allow_unauthenticated and not _is_loopback(self.host):
            raise ValueError(
                f"NRP_HOST={self.host} is reachable from other machines, and without authentication everybody there "
                "may run programs on this one. Set NRP_AUTHENTICATION=storage, or NRP_ALLOW_UNAUTHENTICATED=true "
                "where something else keeps strangers out"
            )
        return self

    @property
    def experiments(self) -> Path:
        """The folder of the gateway's own storage."""
        return self.experiments_directory or self.data_directory / "experiments"

    @property
    def catalogue(self) -> str:
        """The catalogue's URL."""
        return self.catalogue_url or f"sqlite:///{self.data_directory.absolute() / 'catalogue.sqlite'}"

    @property
    def allowed_origins(self) -> list[str]:
        """Origins whose pages may call."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
