from nrp_core.engines.python_grpc import GrpcEngineScript
from nrp_protobuf.wrappers_pb2 import Int64Value


class Script(GrpcEngineScript):
    def initialize(self):
        self._registerDataPack("count", Int64Value)
        self.steps = 0
        self._setDataPack("count", Int64Value(value=0))

    def runLoop(self, timestep_ns):
        self.steps += 1
        self._setDataPack("count", Int64Value(value=self.steps))

    def shutdown(self):
        pass
