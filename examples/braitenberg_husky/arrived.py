from nrp_core import *
from nrp_core.data.nrp_json import *

NEAR = 1.0  # metres from the middle of the robot to the middle of the ball


@EngineDataPack(keyword="pose", id=DataPackIdentifier("pose", "husky"))
@SimulationTime(keyword="time")
@StatusFunction()
def arrived(pose, time):
    if pose.data["distance"] > NEAR:
        return False, []
    report = JsonDataPack("arrived", "husky")
    report.data["time_s"] = time * 1e-9
    return True, [report]
