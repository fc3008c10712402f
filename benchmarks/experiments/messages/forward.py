from nrp_core import *
from nrp_core.data.nrp_protobuf import *


@EngineDataPack(keyword="count", id=DataPackIdentifier("count", "source"))
@TransceiverFunction("sink")
def forward(count):
    seen = WrappersInt64ValueDataPack("seen", "sink")
    seen.data.value = count.data.value
    return [seen]
