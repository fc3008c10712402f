from nrp_core import *
from nrp_core.data.nrp_json import *

NEAR = 0.8  # metres from the middle of the robot to the middle of the ball: almost touching


@EngineDataPack(keyword="pose", id=DataPackIdentifier("pose", "husky"))
@SimulationTime(keyword="time")
@StatusFunction()
def arrived(pose, time):
    if pose.data["to_ball"] > NEAR:
        return False, []
    report = JsonRawData()
    report.data["time_s"] = time * 1e-9
    return True, [report]
