from nrp_core.engines.python_grpc import GrpcEngineScript
from nrp_protobuf.dump_pb2 import String


class Script(GrpcEngineScript):
    def initialize(self):
        self.frames = 0
        self.rest = "x" * (self._config["EngineExtraConfigs"]["bytes"] - 8)
        self._registerDataPack("frame", String)
        self.take()

    def runLoop(self, timestep_ns):
        self.take()

    def take(self):
        self._setDataPack("frame", String(string_stream=f"{self.frames:08}{self.rest}"))
        self.frames += 1
