from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="count", id=DataPackIdentifier("count", "source"))
@TransceiverFunction("sink")
def forward(count):
    seen = JsonDataPack("seen", "sink")
    seen.data["steps"] = count.data["steps"]
    return [seen]
