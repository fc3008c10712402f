"""`nrp up`: the whole stack on one machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from nrp_cli.local_broker import LOOPBACK, MQTT5_PORT, MQTT_PORT, WEBSOCKET_PORT, PortWishes
from nrp_cli.signals import end_on_sigterm
from nrp_cli.stack import REST_PORT, Stack, StackOptions
from nrp_cli.terminal import console, print_json, reports_errors
from nrp_common.errors import SettingsError

CHECK_EVERY_S = 0.5


def default_data_folder() -> Path:
    """Where data goes when nobody says: as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "nrp"


def checked_broker(broker: str) -> str:
    """`broker` when it is one of the kinds or an address.

    Raises:
        SettingsError: it is neither.
    """
    host, _, port = broker.rpartition(":")
    if broker in ("auto", "mosquitto", "embedded") or (host and port.isdecimal()):
        return broker
    raise SettingsError(f"--broker {broker}: say HOST:PORT, mosquitto or embedded")


@reports_errors
def up(
    host: Annotated[str, typer.Option(help="Where the REST API listens.")] = LOOPBACK,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Its port; {REST_PORT} or the next free one.", show_default=False),
    ] = None,
    broker: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT|mosquitto|embedded",
            help="The MQTT broker: one that runs, or which one to start; auto: Mosquitto when it is installed.",
        ),
    ] = "auto",
    mqtt_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"The broker's port; {MQTT_PORT} or the next.", show_default=False),
    ] = None,
    mqtt5_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"For MQTT 5, on the embedded broker; {MQTT5_PORT} or the next.",
            show_default=False,
        ),
    ] = None,
    mqtt_ws_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"For WebSocket; {WEBSOCKET_PORT} or the next.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="NRP_DATA_DIRECTORY",
            help="Folder for experiments, catalogue and logs; ~/.local/share/nrp when not given.",
            show_default=False,
        ),
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many simulations at once; by cores and memory when not given.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
) -> None:
    """Run everything on this machine: broker, gateway, launcher. Ctrl-C ends it all."""
    end_on_sigterm()
    options = StackOptions(
        data=(data or default_data_folder()).expanduser().resolve(),
        host=host,
        port=port,
        broker=checked_broker(broker),
        ports=PortWishes(mqtt_port, mqtt5_port, mqtt_ws_port),
        environment={} if capacity is None else {"NRP_CAPACITY": str(capacity)},
    )
    try:
        with Stack(options) as stack:
            if as_json:
                print_json(stack.addresses())
            else:
                addresses = ", ".join(f"{name} {address}" for name, address in stack.addresses().items())
                console.print(f"NRP is ready: {addresses}", markup=False)
            while True:
                time.sleep(CHECK_EVERY_S)
                stack.check()
    except KeyboardInterrupt:
        return  # being told to end is how it is meant to end
