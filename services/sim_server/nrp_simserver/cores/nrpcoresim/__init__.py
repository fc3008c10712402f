"""The nrpcoresim core: the original program NRPCoreSim, launched or attached to, and driven by gRPC.

    from nrp_simserver.cores.nrpcoresim.core import NRPCoreSim

    core = NRPCoreSim("path/of/an/experiment")
    core.initialize()
    core.run_loop(100)
    core.shutdown()

Importing the module `core` imports gRPC, which takes 0.2 s and must not happen in a process that is to be forked.
"""
