"""The services of the stack, each a process: `python -m nrp_cli.services gateway|launcher`.

`nrp gateway` and `nrp launcher` do the same; this way none of what only people's commands need is imported.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final, NoReturn

from nrp_common import logs
from nrp_common.errors import NRPError, SettingsError

log = logging.getLogger(__name__)


def gateway() -> None:
    """Run the REST gateway until it is told to end."""
    from nrp_gateway.serve import serve  # each service without the other
    from nrp_gateway.settings import GatewaySettings

    serve(GatewaySettings.load())


def launcher() -> None:
    """Run the launcher of simulation servers until it is told to end."""
    from nrp_simserver.launcher.launcher import main
    from nrp_simserver.settings import LauncherSettings

    main(LauncherSettings.load())


SERVICES: Final = {"gateway": gateway, "launcher": launcher}


def _give_up(service: str, reason: NRPError) -> NoReturn:
    """Say why the service ends, in the format of its log."""
    if os.environ.get("NRP_LOG_FORMAT") == "json":
        logs.configure(service, "json")
        log.critical(str(reason))
    else:
        sys.stderr.write(f"Error: {reason}\n")
    sys.exit(2 if isinstance(reason, SettingsError) else 1)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SERVICES:
        sys.exit(f"Name one of the services: {', '.join(SERVICES)}")
    try:
        SERVICES[sys.argv[1]]()
    except NRPError as error:
        _give_up(sys.argv[1], error)
