"""Computational graphs, nodes linked to engines, MQTT topics and each other; and the loops that run them."""
