"""The services of the stack, each a process: `python -m nrp_cli.services gateway|launcher`.

`nrp gateway` and `nrp launcher` do the same; this way none of what only people's commands need is imported.
"""

from __future__ import annotations

import sys

from nrp_common.errors import NRPError, SettingsError


def gateway() -> None:
    """Run the REST gateway until it is told to end."""
    from nrp_gateway.serve import serve  # each service without the other
    from nrp_gateway.settings import GatewaySettings

    serve(GatewaySettings.load())


def launcher() -> None:
    """Run the launcher of simulation servers until it is told to end."""
    from nrp_simserver.launcher import main
    from nrp_simserver.settings import LauncherSettings

    main(LauncherSettings.load())


if __name__ == "__main__":
    try:
        {"gateway": gateway, "launcher": launcher}[sys.argv[1]]()
    except NRPError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2 if isinstance(error, SettingsError) else 1)
