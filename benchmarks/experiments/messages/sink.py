from nrp_core.engines.python_grpc import GrpcEngineScript
from nrp_protobuf.wrappers_pb2 import Int64Value


class Script(GrpcEngineScript):
    def initialize(self):
        self._registerDataPack("seen", Int64Value)

    def runLoop(self, timestep_ns):
        self._getDataPack("seen")

    def shutdown(self):
        pass
