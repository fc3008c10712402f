"""Tells one engine what the other says."""

from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="time", id=DataPackIdentifier("time", "speaker"))
@TransceiverFunction("listener")
def transceiver_function(time):
    heard = JsonDataPack("heard", "listener")
    heard.data["ns"] = time.data["ns"]
    return [heard]
