"""Excitatory and inhibitory neurons in balance, as in Brunel's network, driven by noise."""

import nest
from nrp_core.engines.nest_json import CreateDataPack

EXCITATORY, INHIBITORY, INPUTS = 800, 200, 100

excitatory = nest.Create("iaf_psc_delta", EXCITATORY)
inhibitory = nest.Create("iaf_psc_delta", INHIBITORY)
noise = CreateDataPack("noise", "poisson_generator", params={"rate": 16000.0})
spikes = CreateDataPack("spikes", "spike_recorder")
for source, count, weight in ((excitatory, INPUTS * 4 // 5, 0.1), (inhibitory, INPUTS // 5, -0.5)):
    rule = {"rule": "fixed_indegree", "indegree": count}
    nest.Connect(source, excitatory + inhibitory, rule, {"weight": weight, "delay": 1.5})
nest.Connect(noise, excitatory + inhibitory, syn_spec={"weight": 0.1})
nest.Connect(excitatory[:50], spikes)
