import math
import random

from nrp_core.engines.python_json import EngineScript

GRAVITY = 9.81  # m/s^2
CART = 1.0  # kg
POLE = 0.1  # kg
HALF_LENGTH = 0.5  # m, of the pole
STRONGEST = 10.0  # N


class Script(EngineScript):
    """A cart with a pole hinged on it; the angle is 0 when the pole is upright, in radians."""

    def initialize(self):
        self._registerDataPack("push")
        self._registerDataPack("state")
        self.reset()

    def reset(self):
        self.position, self.speed, self.angle, self.spin = (random.uniform(-0.05, 0.05) for _ in range(4))
        self._setDataPack("push", {"force": 0.0})
        self.tell()

    def runLoop(self, timestep_ns):
        step = timestep_ns * 1e-9
        force = max(-STRONGEST, min(STRONGEST, self._getDataPack("push")["force"]))
        sine, cosine = math.sin(self.angle), math.cos(self.angle)
        mass = CART + POLE
        inertial = (force + POLE * HALF_LENGTH * self.spin**2 * sine) / mass
        angular = (GRAVITY * sine - cosine * inertial) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass))
        self.speed += (inertial - POLE * HALF_LENGTH * angular * cosine / mass) * step
        self.spin += angular * step
        self.position += self.speed * step
        self.angle += self.spin * step
        self.tell()

    def tell(self):
        state = {"position": self.position, "speed": self.speed, "angle": self.angle, "spin": self.spin}
        self._setDataPack("state", state)

    def shutdown(self):
        pass
