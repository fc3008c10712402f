"""Not offered here: engines that exchange protobuf messages (python_grpc)."""

raise ImportError(
    "nrp_core.engines.python_grpc: engines that exchange protobuf messages (python_grpc) is not available in the embedded core"
)
