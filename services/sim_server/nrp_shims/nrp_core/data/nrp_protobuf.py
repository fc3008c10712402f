"""Datapacks that carry protobuf messages: not offered here."""

raise ImportError("nrp_core.data.nrp_protobuf: datapacks of protobuf messages are not available in the embedded core")
