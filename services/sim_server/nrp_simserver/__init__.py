"""Simulation servers, one process a simulation, and the launcher that starts and buries them.

`launcher` takes launches and sees each simulation to its end. It has a `placement` run the simulation's server, on its
own machine or in a cluster. `server` is that process: the bus, the gate and the main script around a core. `resources`
is what simulations use and may use; `cores` has the co-simulation cores. Each of these imports only those after it.
"""
