from nrp_core.data.nrp_json import *
from nrp_core.event_loop import *

STIFFNESS = 4.0  # m/s^2 for each m that is missing
DAMPING = 3.0  # m/s^2 for each m/s
LIMIT = 1.0  # m/s^2
TURN_MS = 5000


@FromMQTT(keyword="target", address="steered_cart/target", type=NlohmannJson)
@Clock(keyword="clock")
@FunctionalNode(name="aim", outputs=["position"])
def aim(target, clock):
    """Where to go: where the last message says; until there is one, to and fro."""
    if target is not None and "position" in target:
        return target["position"]
    return 1.0 if clock // TURN_MS % 2 == 0 else -1.0


@FromFunctionalNode(keyword="wanted", address="/aim/position")
@FromEngine(keyword="motion", address="/cart/motion")
@ToEngine(keyword="drive", address="/cart/drive")
@FunctionalNode(name="steer", outputs=["drive"])
def steer(wanted, motion):
    """As a spring and a damper would, and gently, for the sake of the load."""
    acceleration = STIFFNESS * (wanted - motion.data["position"]) - DAMPING * motion.data["speed"]
    return {"acceleration": max(-LIMIT, min(LIMIT, acceleration))}
