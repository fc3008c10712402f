# What the network (brain.py) and those who read its spikes (drive.py) have to agree on.

NEURONS = 40  # in each of the two populations
