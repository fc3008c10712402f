"""Engines of type python_grpc."""

from nrp_simserver.cores.embedded.python_grpc import GrpcEngineScript

__all__ = ["GrpcEngineScript"]
