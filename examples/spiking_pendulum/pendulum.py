import math

import numpy as np
from nrp_core.engines.python_json import EngineScript

GRAVITY = 9.81  # m/s^2
LENGTH = 1.0  # m
MASS = 1.0  # kg, at the end of the rod
FRICTION = 0.1  # N m s
STRONGEST = 20.0  # N m, what the motor can do

GUST_EVERY = 2.0  # s
GUST_FOR = 0.1  # s
GUST = 5.0  # N m, standard deviation

RECORD_EVERY_NS = 10_000_000


class Script(EngineScript):
    """An inverted pendulum with a motor at its pivot; the angle is 0 when it is upright, in radians."""

    def initialize(self):
        self._registerDataPack("motor")
        self._registerDataPack("joint")
        self.file = None
        self.start()

    def start(self):
        self.angle = math.radians(5)
        self.speed = 0.0
        self.wind = np.random.default_rng(7)
        self.gust = 0.0
        self.next_gust = GUST_EVERY
        self._setDataPack("motor", {"torque": 0.0, "rate": 0.0})
        self._setDataPack("joint", {"angle": self.angle, "speed": self.speed})
        if self.file is not None:
            self.file.close()
        self.file = open("pendulum.csv", "w")
        self.file.write("time_s,angle_deg,torque_Nm,mean_rate_Hz\n")

    def runLoop(self, timestep_ns):
        step = timestep_ns * 1e-9
        motor = self._getDataPack("motor")
        torque = max(-STRONGEST, min(STRONGEST, motor["torque"]))
        inertia = MASS * LENGTH**2
        weight = MASS * GRAVITY * LENGTH * math.sin(self.angle)
        self.speed += (weight + torque + self.push() - FRICTION * self.speed) / inertia * step
        self.angle += self.speed * step
        self._setDataPack("joint", {"angle": self.angle, "speed": self.speed})
        if self._time_ns % RECORD_EVERY_NS == 0:
            time = self._time_ns * 1e-9
            self.file.write(f"{time:.3f},{math.degrees(self.angle):.4f},{torque:.4f},{motor['rate']:.2f}\n")

    def push(self):
        """The torque of the wind: a gust now and then."""
        time = self._time_ns * 1e-9
        if time >= self.next_gust:
            self.gust = self.wind.normal(0.0, GUST)
            self.next_gust += GUST_EVERY
        return self.gust if time < self.next_gust - GUST_EVERY + GUST_FOR else 0.0

    def reset(self):
        self.start()

    def shutdown(self):
        self.file.close()
