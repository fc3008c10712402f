from nrp_core import *
from nrp_core.data.nrp_json import *
from nrp_core.data.nrp_protobuf import *
from population import NEURONS

STEP = 0.02  # s
SMOOTHING = 0.2  # of a step's spikes; a motor does not follow single ones
RADIANS = 0.096  # per second, for each spike per second of a neuron
FASTEST = 8.0  # rad/s

rates = {"left": 0.0, "right": 0.0}  # Hz, of a neuron


@EngineDataPack(keyword="left_spikes", id=DataPackIdentifier("left_spikes", "brain"))
@EngineDataPack(keyword="right_spikes", id=DataPackIdentifier("right_spikes", "brain"))
@SimulationTime(keyword="time")
@TransceiverFunction("husky")
def drive(left_spikes, right_spikes, time):
    """The spikes of each population turn the wheels of the other side: the robot turns to the light."""
    if time == 0:
        rates.update(left=0.0, right=0.0)
    counted = []
    for side, spikes in (("left", left_spikes), ("right", right_spikes)):
        rate = spikes.data[0]["n_events"] / NEURONS / STEP
        rates[side] += SMOOTHING * (rate - rates[side])
        recorder = JsonDataPack(f"{side}_spikes", "brain")
        recorder.data["n_events"] = 0  # so that the next step's spikes are counted from there
        counted.append(recorder)
    wheels = JsonDataPack("wheels", "husky")
    wheels.data["left"] = min(FASTEST, RADIANS * rates["right"])
    wheels.data["right"] = min(FASTEST, RADIANS * rates["left"])
    shown = DumpArrayFloatDataPack("rates", "out")
    shown.data.float_stream.extend([rates["left"], rates["right"]])
    return [wheels, shown, *counted]
