"""The co-simulation cores behind one interface."""
