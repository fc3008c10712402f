"""nest_server: an engine whose network lives in a NEST Server, a process of its own that is driven over HTTP."""

from nrp_simserver.cores.embedded.nest_server.engine import NestServerEngine

__all__ = ["NestServerEngine"]
