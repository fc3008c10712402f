"""The packages that experiments import, as nrp-core 1.4 offers them; `PATH` goes onto a simulation's `sys.path`."""

from pathlib import Path

PATH = Path(__file__).parent
"""The folder that holds the package `nrp_core`."""
