"""Settings that gateway and launcher share, from environment variables `NRP_*`; each service adds its own.

The names that NRP 4 deployments set (`NRP_MQTT_BROKER_ADDRESS`, `NRP_MQTT_PREFIX`, `STORAGE_ADDRESS`, `STORAGE_PORT`)
are understood. A secret may be in a file, which `NRP_<NAME>_FILE` names: what is in an environment is seen by many.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from nrp_common.bus import BrokerAddress, tls_context
from nrp_common.errors import SettingsError
from nrp_common.topics import Topics

MQTT_PORT: Final = 1883

IN_A_FILE: Final = "_FILE"
"""Added to the variable of a secret, names the file that holds it."""


def checked_prefix(prefix: str) -> str:
    """A topic prefix without slashes around it.

    Raises:
        ValueError: there can be no such prefix.
    """
    if any(character in prefix for character in "+#\0"):
        raise ValueError(f"'{prefix}' cannot start a topic: it holds a wildcard")
    return prefix.strip("/")


def secret(variable: str) -> str | None:
    """What an environment variable says, or the file that `<variable>_FILE` names; None when neither is set.

    Raises:
        SettingsError: the file cannot be read or is empty, or both are set.
    """
    told, path = os.environ.get(variable) or None, os.environ.get(variable + IN_A_FILE)
    if not path:
        return told
    if told is not None:
        raise SettingsError(f"{variable} and {variable}{IN_A_FILE} are both set: only one of them can count")
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{variable}{IN_A_FILE}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{variable}{IN_A_FILE}: {path} is no text: {error}") from error
    if not text:
        raise SettingsError(f"{variable}{IN_A_FILE}: {path} is empty")
    return text


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting may be in a file."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


class _SecretFiles(PydanticBaseSettingsSource):
    """The secrets among a class's settings that files hold."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{self.config.get('env_prefix', '')}{field_name}".upper()
        return secret(variable) if is_secret(field) else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: text for name, text in found.items() if text is not None}


class Settings(BaseSettings):
    """Settings from environment variables `NRP_*`, and secrets from files."""

    model_config = SettingsConfigDict(
        env_prefix="NRP_", env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  its base's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where settings come from; what comes first counts."""
        return init_settings, env_settings, _SecretFiles(settings_cls)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """The settings from the environment, with `overrides` on top.

        Raises:
            SettingsError: names each variable and what is wrong with it.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("; ".join(cls._described(fault) for fault in error.errors())) from error

    @classmethod
    def _described(cls, fault: ErrorDetails) -> str:
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # several settings contradict each other: the message names them
            return message
        name = str(fault["loc"][0])
        is_field = name in cls.model_fields  # else it is the variable's whole name
        return f"{cls.model_config['env_prefix'] + name.upper() if is_field else name}: {message}"


class CommonSettings(Settings):
    """What gateway and launcher share."""

    mqtt_broker_address: str = "localhost:1883"
    """`host` or `host:port` of the broker."""
    mqtt_prefix: Annotated[str, AfterValidator(checked_prefix)] = ""
    """Put before all topics, so that several installations can share a broker."""
    mqtt_username: str | None = None
    """Of this service at the broker, when it asks for one."""
    mqtt_password: SecretStr | None = None
    """Goes with the user name."""
    mqtt_tls: bool = False
    """Speak TLS with the broker. Its certificate has to be signed by somebody trusted, and be for the host that
    `NRP_MQTT_BROKER_ADDRESS` names."""
    mqtt_ca_file: Path | None = None
    """A PEM file of the certificate authorities that may have signed the broker's certificate; the system's when not
    given."""
    storage_url: str = ""
    """The Storage Server's base: `<storage_url>/identity/me` and `<storage_url>/storage/<experiment>` are asked.
    Without one the gateway's own storage is used."""
    storage_address: str = Field("", validation_alias="STORAGE_ADDRESS")
    """As NRP 4 names it: stands for the Storage Server at `http://<address>:<port>/storage`."""
    storage_port: int = Field(9000, validation_alias="STORAGE_PORT")
    """Goes with the address."""
    secret_key: SecretStr = SecretStr("")
    """Shared by gateways and launchers: encrypts users' tokens on the bus. A Fernet key, or any text."""
    data_directory: Path = Path("data")
    """Where the service keeps what must survive a restart."""
    metrics_token: SecretStr = SecretStr("")
    """What Prometheus has to present as a bearer token to read the figures. Without one they are for everybody who
    reaches the launcher's port, and on a gateway for nobody when it has authentication, else for everybody."""
    log_format: Literal["json", "console"] = "console"
    """One JSON object a line, or text for people. Simulation servers write their own records in the same way."""

    @model_validator(mode="after")
    def _understand_old_names(self) -> Self:
        if not self.storage_url and self.storage_address:
            self.storage_url = f"http://{self.storage_address}:{self.storage_port}/storage"
        return self

    @model_validator(mode="after")
    def _have_what_the_broker_asks_for(self) -> Self:
        if self.mqtt_tls:
            try:
                tls_context(None if self.mqtt_ca_file is None else str(self.mqtt_ca_file))
            except SettingsError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def broker(self) -> BrokerAddress:
        """The broker as the bus wants it.

        Raises:
            SettingsError: there is no such address.
        """
        try:
            address = urlsplit(f"//{self.mqtt_broker_address}")
            host, port = address.hostname, address.port
        except ValueError:  # the port is no number, or too large
            host = port = None
        if host is None or address.netloc != self.mqtt_broker_address:
            raise SettingsError(f"NRP_MQTT_BROKER_ADDRESS: '{self.mqtt_broker_address}' is no host or host:port")
        return BrokerAddress(
            host=host,
            port=port or MQTT_PORT,
            username=self.mqtt_username,
            password=self.mqtt_password.get_secret_value() if self.mqtt_password else None,
            tls=self.mqtt_tls,
            ca_file=str(self.mqtt_ca_file) if self.mqtt_ca_file else None,
        )

    @property
    def topics(self) -> Topics:
        """The topics of this installation."""
        return Topics(self.mqtt_prefix)
