from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="spikes", id=DataPackIdentifier("spikes", "brain"))
@StatusFunction()
def count(spikes):
    """Always done, so that each run_loop() hands the number of spikes so far to the main script."""
    counted = JsonRawData()
    counted.data["spikes"] = spikes.data[0]["n_events"]
    return True, [counted]
