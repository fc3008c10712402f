from nrp_core import *
from nrp_core.data.nrp_json import *

SMOOTHING = 0.2  # of a step's spikes; a motor does not follow single ones
RADIANS_PER_SPIKE = 0.12
FASTEST = 8.0  # rad/s

speeds = {"left": 0.0, "right": 0.0}


@EngineDataPack(keyword="left_spikes", id=DataPackIdentifier("left_spikes", "brain"))
@EngineDataPack(keyword="right_spikes", id=DataPackIdentifier("right_spikes", "brain"))
@TransceiverFunction("husky")
def drive(left_spikes, right_spikes):
    """The spikes of each population turn the wheels of the other side: the robot turns to the light."""
    for side, spikes in (("right", left_spikes), ("left", right_spikes)):
        wanted = min(FASTEST, RADIANS_PER_SPIKE * spikes.data[0]["n_events"])
        speeds[side] += SMOOTHING * (wanted - speeds[side])
    wheels = JsonDataPack("wheels", "husky")
    wheels.data["left"] = speeds["left"]
    wheels.data["right"] = speeds["right"]
    counted = []
    for side in ("left", "right"):  # so that the next step's spikes are counted from 0
        recorder = JsonDataPack(f"{side}_spikes", "brain")
        recorder.data["n_events"] = 0
        counted.append(recorder)
    return [wheels, *counted]
