from nrp_core.engines.python_json import EngineScript

OUTSIDE = 5.0  # degrees Celsius
LOSS = 1 / 100.0  # of the difference to the outside, a second
HEATING = 0.5  # degrees a second, while it is on


class Script(EngineScript):
    """A room that cools towards the outside, and is heated while its datapack `heating` says so."""

    def initialize(self):
        self._registerDataPack("heating")
        self._registerDataPack("temperature")
        self._setDataPack("heating", {"on": False})
        self.start()

    def start(self):
        self.temperature = 20.0
        self._setDataPack("temperature", {"celsius": self.temperature})

    def runLoop(self, timestep_ns):
        heating = HEATING if self._getDataPack("heating")["on"] else 0.0
        self.temperature += (heating - LOSS * (self.temperature - OUTSIDE)) * timestep_ns * 1e-9
        self._setDataPack("temperature", {"celsius": self.temperature})

    def reset(self):
        self.start()

    def shutdown(self):
        print(f"after {self._time_ns * 1e-9:g} s the room has {self.temperature:.1f} degrees")
