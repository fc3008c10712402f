"""Engines that run NEST: not offered here."""

raise ImportError("nrp_core.engines.nest_json: the embedded core has no NEST")
