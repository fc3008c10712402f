# Twenty equal neurons, each at another point of its way to the next spike, that one generator drives with a current.
import nest
from nrp_core.engines.nest_json import CreateDataPack

NEURONS = 20

current = CreateDataPack("current", "dc_generator")
neurons = nest.Create("iaf_psc_alpha", NEURONS, {"V_m": nest.random.uniform(-70.0, -55.0)})
spikes = CreateDataPack("spikes", "spike_recorder")
nest.Connect(current, neurons)
nest.Connect(neurons, spikes)
