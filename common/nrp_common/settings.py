"""Settings that gateway and launcher share, from environment variables `NRP_*`; each service adds its own.

The names that NRP 4 deployments set (`NRP_MQTT_BROKER_ADDRESS`, `NRP_MQTT_PREFIX`, `STORAGE_ADDRESS`, `STORAGE_PORT`)
are understood.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nrp_common.bus import BrokerAddress
from nrp_common.errors import SettingsError
from nrp_common.topics import Topics


class CommonSettings(BaseSettings):
    """What gateway and launcher share."""

    model_config = SettingsConfigDict(
        env_prefix="NRP_", env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    mqtt_broker_address: str = "localhost:1883"
    """`host` or `host:port` of the broker."""
    mqtt_prefix: str = ""
    """Put before all topics, so that several installations can share a broker."""
    mqtt_username: str | None = None
    mqtt_password: SecretStr | None = None
    mqtt_tls: bool = False
    mqtt_ca_file: Path | None = None
    """A PEM file of certificate authorities that the broker's certificate may be signed by, beside the system's."""
    storage_url: str = ""
    """The Storage Server's base: `<storage_url>/identity/me` and `<storage_url>/storage/<experiment>` are asked.
    Without one the gateway's own storage is used."""
    storage_address: str = Field("", validation_alias="STORAGE_ADDRESS")
    storage_port: int = Field(9000, validation_alias="STORAGE_PORT")
    secret_key: SecretStr = SecretStr("")
    """Shared by gateways and launchers: encrypts users' tokens on the bus. A Fernet key, or any text."""
    data_directory: Path = Path("data")
    """Where the service keeps what must survive a restart."""
    log_format: str = "console"
    """`json` or `console`."""

    @model_validator(mode="after")
    def _understand_old_names(self) -> Self:
        if not self.storage_url and self.storage_address:
            self.storage_url = f"http://{self.storage_address}:{self.storage_port}/storage"
        return self

    @property
    def broker(self) -> BrokerAddress:
        """The broker as the bus wants it.

        Raises:
            SettingsError: the address has a port that is no number.
        """
        host, _, port = self.mqtt_broker_address.partition(":")
        if port and not port.isdecimal():
            raise SettingsError(f"NRP_MQTT_BROKER_ADDRESS: '{port}' in '{self.mqtt_broker_address}' is no port number")
        return BrokerAddress(
            host=host,
            port=int(port or 1883),
            username=self.mqtt_username,
            password=self.mqtt_password.get_secret_value() if self.mqtt_password else None,
            tls=self.mqtt_tls,
            ca_file=str(self.mqtt_ca_file) if self.mqtt_ca_file else None,
        )

    @property
    def topics(self) -> Topics:
        """The topics of this installation."""
        return Topics(self.mqtt_prefix.strip("/"))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """The settings from the environment, with `overrides` on top.

        Raises:
            SettingsError: names each variable and what is wrong with it.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            faults = "; ".join(
                f"{cls.model_config.get('env_prefix', '')}{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}"
                for fault in error.errors()
            )
            raise SettingsError(faults) from error
