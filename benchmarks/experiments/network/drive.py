from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="neurons", id=DataPackIdentifier("neurons", "brain"))
@TransceiverFunction("brain")
def drive(neurons):
    out = JsonDataPack("neurons", "brain")
    out.data["I_e"] = 400.0 - neurons.data[0]["V_m"]
    return [out]
