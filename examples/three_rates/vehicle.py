from nrp_core.engines.python_json import EngineScript

DRAG = 0.05  # of the speed, a second


class Script(EngineScript):
    """A vehicle on a straight road: position in m, speed in m/s; its datapack `drive` accelerates it in m/s^2."""

    def initialize(self):
        self._registerDataPack("drive")
        self._registerDataPack("motion")
        self.start()

    def start(self):
        self._setDataPack("drive", {"acceleration": 0.0})
        self._setDataPack("motion", {"position": 0.0, "speed": 0.0})

    def runLoop(self, timestep_ns):
        step = timestep_ns * 1e-9
        motion = self._getDataPack("motion")
        speed = motion["speed"] + (self._getDataPack("drive")["acceleration"] - DRAG * motion["speed"]) * step
        self._setDataPack("motion", {"position": motion["position"] + speed * step, "speed": speed})

    def reset(self):
        self.start()

    def shutdown(self):
        pass
