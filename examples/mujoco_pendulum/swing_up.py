import math

from nrp_core import *
from nrp_core.data.nrp_json import *

MASS = 1.0  # kg
LENGTH = 0.5  # m
GRAVITY = 9.81  # m/s^2
STRONGEST = 1.6  # N m

PUMPING = 2.0  # N m for each J that is missing
CATCHING = 0.25  # rad from upright
STIFFNESS = 20.0  # N m/rad
DAMPING = 3.0  # N m s/rad


@EngineDataPack(keyword="state", id=DataPackIdentifier("state", "pendulum"))
@TransceiverFunction("pendulum")
def swing_up(state):
    """Pump energy into the pendulum until it has what upright takes; hold it when it comes there."""
    angle, speed = state.data["angle"], state.data["speed"]
    if abs(angle) < CATCHING:
        torque = -STIFFNESS * angle - DAMPING * speed
    else:
        energy = MASS * (LENGTH * speed) ** 2 / 2 + MASS * GRAVITY * LENGTH * (math.cos(angle) - 1.0)
        torque = -PUMPING * energy * math.copysign(1.0, speed)
    motor = JsonDataPack("motor", "pendulum")
    motor.data["torque"] = max(-STRONGEST, min(STRONGEST, torque))
    return [motor]
