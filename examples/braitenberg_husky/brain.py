# Two populations of spiking neurons, each driven by the light of one eye; drive.py has them move the wheels.
import nest
from nrp_core.engines.nest_json import CreateDataPack
from population import NEURONS

nest.resolution = 0.5  # ms

for side in ("left", "right"):
    light = CreateDataPack(f"{side}_light", "dc_generator")
    spikes = CreateDataPack(f"{side}_spikes", "spike_recorder")
    neurons = nest.Create("iaf_psc_alpha", NEURONS, {"V_m": nest.random.uniform(-70.0, -55.0)})
    noise = nest.Create("poisson_generator", params={"rate": 3000.0})
    nest.Connect(light, neurons, syn_spec={"weight": nest.random.uniform(0.8, 1.2)})
    nest.Connect(noise, neurons, syn_spec={"weight": nest.random.uniform(10.0, 20.0)})
    nest.Connect(neurons, spikes)
