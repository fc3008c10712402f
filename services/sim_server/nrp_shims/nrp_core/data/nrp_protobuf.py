"""Datapacks that carry protobuf messages: not offered here."""

raise ImportError("nrp_core.data.nrp_protobuf: the embedded core has no datapacks of protobuf messages")
