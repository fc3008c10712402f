"""Engines of type python_json."""

from nrp_simserver.cores.embedded.python_json import EngineScript

__all__ = ["EngineScript"]
