"""Engines that drive physics simulators: not offered here."""

raise ImportError("nrp_core.engines.py_sim: the embedded core has no physics simulators")
