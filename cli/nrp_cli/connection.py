"""Which gateway the commands talk to, and as whom."""

from __future__ import annotations

from typing import Annotated

import typer

from nrp_cli.rest_client import RestClient

DEFAULT_URL = "http://127.0.0.1:8090"

Url = Annotated[
    str | None,
    typer.Option(envvar="NRP_URL", help=f"Address of the gateway; {DEFAULT_URL} when not given.", show_default=False),
]
Token = Annotated[
    str | None,
    typer.Option(envvar="NRP_TOKEN", help="Bearer token, where the gateway asks for one.", show_default=False),
]


def connect(url: str | None, token: str | None) -> RestClient:
    """A client for the gateway at `url`."""
    return RestClient(url or DEFAULT_URL, token)
