"""What every launch does, done once on an experiment of our own by a server that has nothing to do yet.

A forked process shares its memory with the process it was forked from until it writes to it, and Python writes to all
that it looks at: two thirds of the time that it takes to get a first simulation ready go into copies of pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nrp_simserver.cores.configuration import DEFAULT_FILE, load_configuration
from nrp_simserver.cores.selection import create_core
from nrp_simserver.server.script_runner import MainScript

EXPERIMENT: Final = Path(__file__).parent / "experiment"


def rehearse() -> None:
    """Get a small simulation ready, take a step, and shut it down. Nothing of it is left in this process."""
    configuration = load_configuration(EXPERIMENT, DEFAULT_FILE).of_simulation(0, "", "")
    MainScript.load(EXPERIMENT, "main_script.py")
    core = create_core(configuration, EXPERIMENT, "embedded")
    core.initialize()
    core.run_loop(1)
    core.shutdown()
