"""Datapacks that carry protobuf messages: for each message of each package a DataPack and a RawData."""

from nrp_simserver.cores.embedded.protobuf_datapacks import classes_by_name as _classes_by_name

_classes = _classes_by_name()
globals().update(_classes)

__all__ = list(_classes)
