"""What simulations use of a machine, and what they may use."""
