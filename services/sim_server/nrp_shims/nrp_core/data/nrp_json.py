"""Datapacks that carry JSON data."""

from nrp_simserver.cores.embedded.datapacks import JsonDataPack, JsonRawData, NlohmannJson

__all__ = ["JsonDataPack", "JsonRawData", "NlohmannJson"]
