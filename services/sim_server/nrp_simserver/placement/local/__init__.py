"""Simulation servers on the launcher's own machine, forked by a process that has imported everything already."""
