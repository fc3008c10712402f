from nrp_core import *
from nrp_core.data.nrp_json import *

GOAL = 100.0  # m
NEAR = 0.1  # m
SLOW = 0.1  # m/s


@EngineDataPack(keyword="motion", id=DataPackIdentifier("motion", "vehicle"))
@SimulationTime(keyword="time_ns")
@StatusFunction()
def arrived(motion, time_ns):
    """Done when the vehicle stands at the goal. What is returned beside that makes up the trajectory."""
    position, speed = motion.data["position"], motion.data["speed"]
    trajectory = []
    is_there = abs(position - GOAL) < NEAR and abs(speed) < SLOW
    if is_there or time_ns % 100_000_000 == 0:
        point = JsonRawData()
        point.data["time"] = time_ns * 1e-9
        point.data["position"] = position
        point.data["speed"] = speed
        trajectory.append(point)
    return is_there, trajectory
