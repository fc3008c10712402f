"""Engines that drive physics simulators."""

from nrp_simserver.cores.embedded.py_sim import PySimEngineScript

__all__ = ["PySimEngineScript"]
