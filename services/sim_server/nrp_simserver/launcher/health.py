"""How a launcher and its machine are, for whoever asks over the bus."""

from __future__ import annotations

import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path

from nrp_common.messages import LauncherHealth
from nrp_simserver.launcher.spool import Spool


def health(data_directory: Path, spool: Spool) -> LauncherHealth:
    """What can be told at once."""
    spooled, _ = spool.waiting()
    return LauncherHealth(
        time=time.time(),
        version=version("nrp-backend"),
        python=platform.python_version(),
        free_disk=shutil.disk_usage(data_directory).free,
        spooled=spooled,
    )
