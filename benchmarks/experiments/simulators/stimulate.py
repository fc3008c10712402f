from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="spikes", id=DataPackIdentifier("spikes", "brain"))
@TransceiverFunction("brain")
def stimulate(spikes):
    noise = JsonDataPack("noise", "brain")
    noise.data["rate"] = 16000.0 + min(500, spikes.data[0]["n_events"])
    counted = JsonDataPack("spikes", "brain")
    counted.data["n_events"] = 0
    return [noise, counted]
