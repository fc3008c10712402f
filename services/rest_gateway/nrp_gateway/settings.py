"""Settings of the gateway, from environment variables `NRP_*`."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, PositiveInt, SecretStr, model_validator

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
    published_host: str | None = None
    """For a gateway in a container: the address of the container's host at which its port and the broker's are
    published. This one, not `NRP_HOST`, then says who can reach it."""
    authentication: Authentication = Authentication.OFF
    """`off`: everybody may do everything. `storage`: callers are who the Storage Server says."""
    allow_unauthenticated: bool = False
    """Serve beyond this machine although everybody may do everything."""
    experiments_directory: Path | None = None
    """Where the gateway's own storage keeps the experiments; `experiments` in the data directory when not given."""
    catalogue_url: SecretStr = SecretStr("")
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
        variable, host = (
            ("NRP_HOST", self.host) if self.published_host is None else ("NRP_PUBLISHED_HOST", self.published_host)
        )
        if self.allow_unauthenticated or _is_loopback(host):
            return self
        if self.authentication is Authentication.OFF:
            raise ValueError(
                f"{variable}={host} is reachable from other machines, and without authentication everybody there "
                "may run programs on this one. Set NRP_AUTHENTICATION=storage, or NRP_ALLOW_UNAUTHENTICATED=true "
                "where something else keeps strangers out"
            )
        if self.published_host is not None and self.mqtt_username is None:
            raise ValueError(
                f"{variable}={host} publishes the broker to other machines, too, and everybody there may command it "
                "as long as it asks for no password. Give it accounts, and this gateway its own with "
                "NRP_MQTT_USERNAME, or set NRP_ALLOW_UNAUTHENTICATED=true where something else keeps strangers out"
            )
        return self

    @property
    def experiments(self) -> Path:
        """The folder of the gateway's own storage."""
        return self.experiments_directory or self.data_directory / "experiments"

    @property
    def catalogue(self) -> str:
        """The catalogue's URL."""
        return (
            self.catalogue_url.get_secret_value() or f"sqlite:///{self.data_directory.absolute() / 'catalogue.sqlite'}"
        )

    @property
    def allowed_origins(self) -> list[str]:
        """Origins whose pages may call."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
