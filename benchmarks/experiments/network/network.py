from nrp_core.engines.nest_json import CreateDataPack

neurons = CreateDataPack("neurons", "iaf_psc_alpha", 10)
