from nrp_core import *
from nrp_core.data.nrp_protobuf import *


@EngineDataPack(keyword="frame", id=DataPackIdentifier("frame", "camera"))
@TransceiverFunction("transfer")
def hand_on(frame):
    handed_on = DumpStringDataPack("frame", "transfer")
    handed_on.data.string_stream = frame.data.string_stream
    return [handed_on]
