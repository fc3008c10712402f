"""The simulation servers, one process a simulation, and the launcher that starts and buries them."""
