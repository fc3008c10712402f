"""Engines whose datapacks carry protobuf messages: not offered here."""

raise ImportError("nrp_core.engines.python_grpc: the embedded core has no datapacks of protobuf messages")
