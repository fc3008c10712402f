"""Not offered here: physics simulators (py_sim)."""

raise ImportError("nrp_core.engines.py_sim: physics simulators (py_sim) is not available in the embedded core")
