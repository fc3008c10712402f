from math import cos, sin

from nrp_core.engines.python_json import EngineScript

GRAVITY = 9.81  # m/s^2
ROPE = 0.5  # m
SWAY_DAMPING = 0.3  # of the sway's speed, a second
AT_REST = {"position": 0.0, "speed": 0.0, "sway": 0.0, "sway_speed": 0.0}


class Script(EngineScript):
    """A cart on a rail with a load on a rope; its datapack `drive` accelerates it in m/s^2.

    `motion` is the cart's position in m, and the angle in rad that the load hangs behind it, each with its speed.
    """

    def initialize(self):
        self._registerDataPack("drive")
        self._registerDataPack("motion")
        self.reset()

    def runLoop(self, timestep_ns):
        dt = timestep_ns * 1e-9
        motion, drive = self._getDataPack("motion"), self._getDataPack("drive")["acceleration"]
        pull = drive * cos(motion["sway"]) - GRAVITY * sin(motion["sway"])
        speed = motion["speed"] + drive * dt
        sway_speed = motion["sway_speed"] + (pull / ROPE - SWAY_DAMPING * motion["sway_speed"]) * dt
        self._setDataPack(
            "motion",
            {
                "position": motion["position"] + speed * dt,
                "speed": speed,
                "sway": motion["sway"] + sway_speed * dt,
                "sway_speed": sway_speed,
            },
        )

    def reset(self):
        self._setDataPack("drive", {"acceleration": 0.0})
        self._setDataPack("motion", AT_REST)

    def shutdown(self):
        pass
