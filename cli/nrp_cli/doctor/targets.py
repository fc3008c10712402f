"""What is examined: where gateway, broker and data are, and whether anything has to be there at all."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from nrp_cli.connection import DEFAULT_URL
from nrp_cli.local_broker import WEBSOCKET_PORT
from nrp_cli.stack_file import StackFile
from nrp_cli.up import default_data_folder
from nrp_common.bus import BrokerAddress
from nrp_common.errors import SettingsError
from nrp_common.settings import CommonSettings
from nrp_common.topics import Topics

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Targets:
    """Where to look.

    Attributes:
        url: of the gateway.
        broker: for MQTT 5, with what it takes to get in.
        mqtt: the same for MQTT 3.1.1.
        websocket: the address for MQTT over WebSocket.
        topics: of the installation.
        data: the data folder of the services on this machine.
        storage_url: of the Storage Server, "" where the gateway is expected to keep the experiments.
        token: the user's bearer token, None for none.
        stack: what an `nrp up` noted down in the data folder.
        expects_gateway: whether somebody said that there is a gateway.
        expects_broker: the same of the broker.
    """

    url: str
    broker: BrokerAddress
    mqtt: BrokerAddress
    websocket: str
    topics: Topics
    data: Path
    storage_url: str
    token: str | None
    stack: StackFile | None
    expects_gateway: bool
    expects_broker: bool

    @property
    def gateway_is_local(self) -> bool:
        """Whether the gateway's data can be looked at here."""
        return urlsplit(self.url).hostname in LOOPBACK

    @property
    def broker_is_local(self) -> bool:
        """Whether nothing goes over a network on the way to the broker."""
        return self.broker.host in LOOPBACK


def find_targets(
    url: str | None, token: str | None, broker: str | None, websocket: str | None, data: Path | None
) -> Targets:
    """Where to look: as given, else as the environment says, else as an `nrp up` noted down, else the usual places.

    Args:
        url: of the gateway.
        token: the user's bearer token.
        broker: `host:port`.
        websocket: an address that starts with `ws://` or `wss://`.
        data: the data folder.

    Raises:
        SettingsError: something given is no address, or a variable is wrong.
    """
    settings = CommonSettings.load(**({} if broker is None else {"mqtt_broker_address": broker}))
    said_broker = broker is not None or bool(os.environ.get("NRP_MQTT_BROKER_ADDRESS"))
    folder = (data or _data_folder(settings)).expanduser().absolute()
    stack = StackFile.read(folder)
    address = plain = settings.broker
    if stack is not None and not said_broker:
        address, plain = _at(address, stack.mqtt5), _at(address, stack.mqtt)
    return Targets(
        url=_checked_url(url, "http") if url else stack.url if stack else DEFAULT_URL,
        broker=address,
        mqtt=plain,
        websocket=_checked_url(websocket, "ws") if websocket else _websocket(stack, address, said_broker),
        topics=settings.topics,
        data=folder,
        storage_url=settings.storage_url.rstrip("/"),
        token=token,
        stack=stack,
        expects_gateway=url is not None or stack is not None,
        expects_broker=said_broker or stack is not None,
    )


def _data_folder(settings: CommonSettings) -> Path:
    # The services' own default is relative to where they were started, which nobody knows here.
    return settings.data_directory if os.environ.get("NRP_DATA_DIRECTORY") else default_data_folder()


def _at(address: BrokerAddress, place: str) -> BrokerAddress:
    host, _, port = place.rpartition(":")
    return replace(address, host=host, port=int(port))


def _websocket(stack: StackFile | None, broker: BrokerAddress, said_broker: bool) -> str:
    if stack is not None and stack.websocket is not None and not said_broker:
        return stack.websocket
    return f"{'wss' if broker.tls else 'ws'}://{broker.host}:{WEBSOCKET_PORT}"


def _checked_url(url: str, scheme: str) -> str:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in (scheme, f"{scheme}s") and parts.hostname is not None and parts.port != 0
    except ValueError:  # the port is no number, or too large
        is_address = False
    if not is_address:
        raise SettingsError(f"'{url}' is no address that starts with {scheme}:// or {scheme}s://")
    return url.rstrip("/")
