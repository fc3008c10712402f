"""Not offered here: NEST (nest_json)."""

raise ImportError("nrp_core.engines.nest_json: NEST (nest_json) is not available in the embedded core")
