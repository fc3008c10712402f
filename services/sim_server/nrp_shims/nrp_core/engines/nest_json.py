"""Engines that run NEST: what their init files import."""

from nrp_simserver.cores.embedded.nest import create_datapack as CreateDataPack  # noqa: N812  nrp-core's names
from nrp_simserver.cores.embedded.nest import register_datapack as RegisterDataPack  # noqa: N812

__all__ = ["CreateDataPack", "RegisterDataPack"]
